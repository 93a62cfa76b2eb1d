// A list by pages, newest first: its filters, the way to older and newer ones, and asking again while somebody looks.

import { byId, fill, showError } from "./dom.js";
import { get, ProblemError, query } from "./api.js";
import { repeat } from "./live.js";

/**
 * Show the list at `path` of the API, on the page with the address `here`. `filters`: ids of the form's fields, which
 * count once the form is sent; the address keeps them. `draw(page, filters)` may be asynchronous.
 * @returns {{now: () => void}} `now` asks at once
 */
export function pagedList({ path, here, filters, limit, milliseconds, draw }) {
  const asked = new URLSearchParams(location.search);
  for (const name of filters) byId(name).value = asked.get(name) ?? "";
  const fields = () => Object.fromEntries(filters.map((name) => [name, byId(name).value.trim()]));
  const former = [];  // `after` of the pages before this one
  let wanted = fields(), after = asked.get("after"), last = null;

  async function show() {
    const told = wanted;
    let page;
    try {
      page = await get(`${path}${query({ ...told, after, limit })}`);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showError(byId("problem"), error);
      return;
    }
    fill(byId("problem"));
    last = page.items.at(-1)?.id;
    byId("older").hidden = !page.has_more;
    byId("newer").hidden = !after;
    await draw(page, told);
  }

  function move(to) {
    after = to;
    history.replaceState(null, "", `${here}${query({ ...wanted, after })}`);
    live.now();
  }

  byId("older").onclick = () => {
    former.push(after);
    move(last);
  };
  byId("newer").onclick = () => move(former.pop() ?? null);
  byId("filters").onsubmit = (event) => {
    event.preventDefault();
    wanted = fields();
    former.length = 0;
    move(null);
  };
  const live = repeat(show, milliseconds);
  return live;
}
