// The worker, as functions that return promises.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let last = 0;

worker.onmessage = ({ data: { number, result, error } }) => {
  const { resolve, reject } = waiting.get(number);
  waiting.delete(number);
  if (error === undefined) resolve(result);
  else reject(new Error(error));
};
worker.onerror = (event) => {
  for (const { reject } of waiting.values()) reject(new Error(event.message || "The answer could not be read."));
  waiting.clear();
};

function run(job, file) {
  return new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    worker.postMessage({ number: last, job, file });
  });
}

/** Return the cloud of a labelled PLY file (a Blob); see cloud.js. */
export function readCloud(file) {
  return run("cloud", file);
}

/** Return a labelled PLY file as CSV, both Blobs. */
export function toCsv(file) {
  return run("csv", file);
}
