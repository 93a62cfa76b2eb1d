// What every page has: where one is, who is signed in, and the way out.

import { byId, fill, h, showError } from "./dom.js";
import { get, send } from "./api.js";

/** The part of the page's address behind `prefix`, such as a job's id. */
export const idInPath = (prefix) => decodeURIComponent(location.pathname.slice(prefix.length));

async function showAccount() {
  const me = await get("/me");
  const out = h("button", { type: "button", onclick: signOut }, "Sign out");
  fill(byId("account"), h("span", { class: "soft" }, me.owner), " ", me.signed_in && out);
  return me;
}

async function signOut() {
  await send("POST", "/sign-out");
  location.assign("/web/sign-in");
}

/** Mark the page in the navigation, show the account, then run `main(me)`; what it throws is shown. */
export async function start(main) {
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.getAttribute("href") === location.pathname && !link.classList.contains("brand"))
      link.setAttribute("aria-current", "page");
  }
  try {
    await main(await showAccount());
  } catch (error) {
    const place = h("div");
    byId("main").prepend(place);
    showError(place, error);
  }
}

/** Ask before what cannot be undone. */
export const sure = (question) => confirm(question);

/** Save the body of an answer (`raw`) as a file. */
export async function save(answer, name) {
  const address = URL.createObjectURL(await answer.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
