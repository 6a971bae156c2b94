// One file's way through the service: labels first, then, where the model tells objects apart, the boxes.

import { answerName, ask, newRequestId, post } from "./service.js";
import { readCloud } from "./reader.js";
import { transfer, working } from "./status.js";

const ASK_AFTER_MS = 2500;
const ASK_EVERY_MS = 3000;

/** Return the options of a request for labels or boxes. */
export function query(file, options, more = {}) {
  const { model, condition, tta } = options;
  return { filename: file.name, model, condition, tta: tta ? "full" : "", ...more };
}

/** Ask now and then how far a long request is, until the returned function is called. */
function follow(requestId, name) {
  let timer = setTimeout(tick, ASK_AFTER_MS);
  async function tick() {
    try {
      const { done } = await ask(`/v1/progress/${requestId}`);
      if (timer && done !== null) working(`Labelling ${name}, ${Math.round(100 * done)} %`, done);
    } catch {
      return; // the request itself will say what is wrong
    }
    if (timer) timer = setTimeout(tick, ASK_EVERY_MS);
  }
  return () => {
    clearTimeout(timer);
    timer = 0;
  };
}

/** Label a file; returns {stem, labelled (a PLY as a Blob), cloud, warnings, timing}. */
export async function label(file, options, signal) {
  const requestId = newRequestId();
  const steps = transfer(file.name, file.size);
  let unfollow = () => {};
  const onSent = (sent, total) => {
    steps.onSent(sent, total);
    if (sent >= total) {
      unfollow();
      unfollow = follow(requestId, file.name);
    }
  };
  const onReceived = (got, total) => {
    unfollow();
    steps.onReceived(got, total);
  };
  working(`Sending ${file.name}`, 0);
  try {
    const more = { output: "ply", scores: options.scores ? "true" : "" };
    const answer = await post("/v1/segment", file, { query: query(file, options, more), signal, requestId, onSent, onReceived });
    working("Reading the labelled cloud");
    const labelled = new Blob([answer.bytes], { type: "application/octet-stream" });
    const stem = answerName(answer.header("Content-Disposition"), "cloud_labelled.ply").replace(/_labelled\.ply$/, "");
    const warnings = answer.header("X-Warning");
    return {
      stem,
      labelled,
      cloud: await readCloud(labelled),
      // Several headers of one name arrive as one, with commas between them.
      warnings: warnings ? warnings.split(/(?<=[.!?]), /) : [],
      timing: answer.header("Server-Timing"),
    };
  } finally {
    unfollow();
  }
}

/** Measure the boxes of a file; returns the service's answer. */
export async function measure(file, options, signal) {
  working("Measuring the boxes");
  const answer = await post("/v1/measure", file, { query: query(file, options, { units: options.units }), signal });
  return JSON.parse(new TextDecoder().decode(answer.bytes));
}

/** Have the service write a file: {blob, name}. */
export async function fetchFile(path, file, parameters, otherwise) {
  const answer = await post(path, file, { query: parameters });
  return { blob: new Blob([answer.bytes]), name: answerName(answer.header("Content-Disposition"), otherwise) };
}
