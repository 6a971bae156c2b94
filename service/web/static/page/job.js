// One file's way through the service: labels and boxes, one class, or features.

import { openArchive } from "./archive.js";
import { answerName, ask, newRequestId, post } from "./service.js";
import { readCloud } from "./reader.js";
import { transfer, working } from "./status.js";

const ASK_AFTER_MS = 2500;
const ASK_EVERY_MS = 3000;

/** Return the options of a request. */
export function query(file, options, more = {}) {
  const { model, condition, tta } = options;
  return { filename: file.name, model, condition, tta: tta ? "full" : "", ...more };
}

/** Ask now and then how far a long request is, until the returned function is called. */
function follow(requestId, doing) {
  let timer = setTimeout(tick, ASK_AFTER_MS);
  async function tick() {
    try {
      const { done } = await ask(`/v1/progress/${requestId}`);
      if (timer && done !== null) working(`${doing}, ${Math.round(100 * done)} %`, done);
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

/** Post a file, saying how far it is; `doing` is what the service does with it. Returns the answer of `post`. */
async function send(path, file, doing, parameters, signal) {
  const requestId = newRequestId();
  const steps = transfer(file.name, file.size, doing);
  let unfollow = () => {};
  const onSent = (sent, total) => {
    steps.onSent(sent, total);
    if (sent >= total) {
      unfollow();
      unfollow = follow(requestId, doing);
    }
  };
  const onReceived = (got, total) => {
    unfollow();
    steps.onReceived(got, total);
  };
  working(`Sending ${file.name}`, 0);
  try {
    return await post(path, file, { query: parameters, signal, requestId, onSent, onReceived });
  } finally {
    unfollow();
  }
}

/**
 * Label a file and, with `boxes`, measure its boxes in the same request.
 *
 * Returns {stem, labelled (a PLY as a Blob), cloud, warnings, timing, measurement and table (a CSV as a Blob) or null}.
 */
export async function segment(file, options, boxes, signal) {
  const scores = options.scores ? "true" : "";
  const found = boxes
    ? await measured(file, query(file, options, { output: "zip", units: options.units, scores }), signal)
    : await labelled(file, query(file, options, { output: "ply", scores }), signal);
  working("Reading the labelled cloud");
  return { ...found, cloud: await readCloud(found.labelled) };
}

async function labelled(file, parameters, signal) {
  const { bytes, header } = await send("/v1/segment", file, `Labelling ${file.name}`, parameters, signal);
  const stem = answerName(header("Content-Disposition"), "cloud_labelled.ply").replace(/_labelled\.ply$/, "");
  return { stem, labelled: new Blob([bytes]), measurement: null, table: null, ...said(header) };
}

async function measured(file, parameters, signal) {
  const doing = `Labelling ${file.name} and measuring its boxes`;
  const { bytes, header } = await send("/v1/measure", file, doing, parameters, signal);
  const members = openArchive(bytes);
  const [cloud, boxes, table] = ["_labelled.ply", "_boxes.json", "_boxes.csv"].map((ending) =>
    [...members].find(([name]) => name.endsWith(ending)));
  const stem = cloud[0].replace(/_labelled\.ply$/, "");
  return { stem, labelled: cloud[1], measurement: JSON.parse(await boxes[1].text()), table: table[1], ...said(header) };
}

/** Measure the boxes of a file alone; returns the service's answer. */
export async function measure(file, options, signal) {
  const parameters = query(file, options, { units: options.units });
  const { bytes } = await send("/v1/measure", file, `Measuring the boxes of ${file.name}`, parameters, signal);
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** Return what an answer that is a file says in its headers. */
function said(header) {
  return { warnings: JSON.parse(header("X-Warnings") ?? "[]"), timing: header("Server-Timing") };
}

/** Ask for the class of a file's cloud: {stem, found (the service's answer), warnings, timing}. */
export async function classify(file, options, signal) {
  const { bytes, header } = await send("/v1/classify", file, `Classifying ${file.name}`, query(file, options), signal);
  const found = JSON.parse(new TextDecoder().decode(bytes));
  return { stem: stemOf(file.name), found, warnings: found.warnings, timing: header("Server-Timing") };
}

/** Ask for features of a file's points: {stem, features (an NPZ as a Blob), points, warnings, timing}. */
export async function embed(file, options, signal) {
  const { bytes, header } = await send("/v1/embed", file, `Computing features of ${file.name}`, query(file, options), signal);
  const stem = answerName(header("Content-Disposition"), "cloud_features.npz").replace(/_features\.npz$/, "");
  return { stem, features: new Blob([bytes]), points: Number(header("X-Points")), ...said(header) };
}

function stemOf(name) {
  return name.replace(/\.[^.]+$/, "") || name;
}

/** Have the service write a file: {blob, name}. */
export async function fetchFile(path, file, parameters, otherwise) {
  const answer = await post(path, file, { query: parameters });
  return { blob: new Blob([answer.bytes]), name: answerName(answer.header("Content-Disposition"), otherwise) };
}
