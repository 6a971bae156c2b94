// What can be taken home: a button for each file, which makes it when it is pressed.

import { element, make, show } from "./dom.js";

/** Hand a Blob to the browser's downloads. */
function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Offer files: [{word, text, about, fetch}]; `about` is what a screen reader says beside the text.
 *
 * `fetch()` returns {blob, name}; what it throws, `onProblem` is told.
 */
export function offerDownloads(files, onProblem) {
  const note = element("download-note");
  note.textContent = "";
  const buttons = files.map(({ word, text, about, fetch }) => {
    const button = make("button", { type: "button", className: "plain", textContent: text, "aria-label": `${text}: ${about}` });
    button.dataset.output = word;
    button.addEventListener("click", async () => {
      button.disabled = true;
      note.textContent = `Making ${text} ...`;
      try {
        const { blob, name } = await fetch();
        save(blob, name);
        note.textContent = `${name} is in your downloads.`;
      } catch (error) {
        note.textContent = "";
        onProblem(error);
      } finally {
        button.disabled = false;
        button.focus();
      }
    });
    return button;
  });
  element("files").replaceChildren(...buttons);
  show(element("downloads"), true);
}
