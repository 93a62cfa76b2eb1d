// Shows an API token once, for a cookie that no script can read.

import { byId, showError } from "./dom.js";
import { send } from "./api.js";

/** Where the reader came from: only ever a place on this service. */
function next() {
  const asked = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return asked.origin === location.origin ? asked.pathname + asked.search : "/";
}

byId("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  const token = byId("token").value;
  byId("token").value = "";
  try {
    await send("POST", "/sign-in", { token });
    location.assign(next());
  } catch (error) {
    showError(byId("problem"), error);
    byId("token").focus();
  }
};
