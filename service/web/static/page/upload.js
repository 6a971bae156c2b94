// How a file comes to the page: dropped anywhere on it, chosen, pasted, or the sample.

import { element, show } from "./dom.js";

export const SAMPLE = { url: "/static/samples/parcels.ply", name: "parcels.ply" };

const FOLDER = { title: "That is a folder", detail: "Drop one file, a point cloud. Folders are not read." };

/**
 * Call `onFile(file, note)` for each file that comes, and `onSample()` when the sample is wanted.
 *
 * `note` says what came with it that is not taken; `onProblem` is told of what is no file.
 */
export function watchFiles({ onFile, onSample, onProblem }) {
  const input = element("file");
  for (const id of ["choose", "choose-other"]) element(id).addEventListener("click", () => input.click());
  element("sample").addEventListener("click", onSample);
  input.addEventListener("change", () => {
    if (input.files[0]) onFile(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });

  const hint = element("drop-hint");
  let inside = 0;
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    inside++;
    show(hint, true);
  });
  addEventListener("dragleave", (event) => {
    if (carriesFile(event) && --inside <= 0) show(hint, false);
  });
  addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    inside = 0;
    show(hint, false);
    takeFrom(event.dataTransfer);
  });
  addEventListener("paste", (event) => event.clipboardData && takeFrom(event.clipboardData));

  function takeFrom({ items, files }) {
    const [file, ...others] = files;
    if (!file) return;
    if (items[0]?.webkitGetAsEntry?.()?.isDirectory) onProblem(FOLDER);
    else onFile(file, others.length ? `${files.length} files came; the page takes one at a time, and this is the first.` : "");
  }
}

/** Return the sample as a File. */
export async function fetchSample() {
  const answer = await fetch(SAMPLE.url);
  return new File([await answer.blob()], SAMPLE.name);
}
