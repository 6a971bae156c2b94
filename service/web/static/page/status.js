// What the page says while it works, and when something went wrong.

import { bytes, element, show } from "./dom.js";

/** Show what is going on; `share` is 0..1, or null where nobody knows. */
export function working(text, share = null) {
  show(element("progress"), true);
  if (element("progress-text").textContent !== text) element("progress-text").textContent = text;
  const bar = element("progress-bar");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** Nothing is going on any more. */
export function idle() {
  show(element("progress"), false);
}

/** Return functions that tell of a file on its way: to the service, in it (`doing` says what is done), and back. */
export function transfer(name, size, doing) {
  return {
    onSent: (sent, total) =>
      sent < total ? working(`Sending ${name}, ${bytes(size)}`, sent / total) : working(doing),
    onReceived: (got, total) => working(`Receiving the labels, ${bytes(got)}`, total ? got / total : null),
  };
}

/** Show a Problem in the service's own words; `onRetry`, where it is given, is offered; `name`: of the file at fault. */
export function showProblem(problem, onRetry, name = "") {
  element("problem-file").textContent = name;
  show(element("problem-file"), name !== "");
  element("problem-title").textContent = problem.title ?? "That did not work";
  element("problem-detail").textContent = problem.detail ?? problem.message;
  const wait = problem.retryAfter ? `The service asks to wait ${problem.retryAfter} s. ` : "";
  const id = problem.requestId ? `Request ${problem.requestId}` : "";
  element("problem-id").textContent = wait + id;
  const retry = element("retry");
  show(retry, Boolean(onRetry));
  retry.onclick = onRetry ?? null;
  show(element("problem"), true);
  element("problem").scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  show(element("problem"), false);
}

/** Show sentences about what the service had to assume. */
export function showWarnings(sentences) {
  const list = element("warnings");
  list.replaceChildren(...[...new Set(sentences)].map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  show(list, sentences.length > 0);
}
