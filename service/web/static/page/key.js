// The API key: asked for when the service wants one, kept in this tab's sessionStorage and nowhere else.

import { element, show } from "./dom.js";

const NAME = "pointserve-key";
let current = "";
try {
  current = sessionStorage.getItem(NAME) ?? "";
} catch {
  // Storage is switched off: the key lives as long as the page.
}

/** Return the key to send, or "". */
export function key() {
  return current;
}

function keep(value) {
  current = value;
  try {
    if (value) sessionStorage.setItem(NAME, value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // As above.
  }
  show(element("key-known"), Boolean(value));
}

/** Wire the form; `onKey` is called when there is a new key, or none any more. */
export function watchKey(onKey) {
  keep(current);
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep(element("key").value.trim());
    element("key").value = "";
    show(element("key-section"), false);
    onKey();
  });
  element("key-forget").addEventListener("click", () => {
    keep("");
    onKey();
  });
}

/** Show the form and go to it. */
export function askForKey() {
  keep("");
  show(element("key-section"), true);
  element("key").focus();
}
