// Reads what is large away from the page's own thread.

import { readCloud } from "./cloud.js";
import { csvPieces } from "./ply.js";

self.onmessage = async ({ data: { number, job, file } }) => {
  try {
    const buffer = await file.arrayBuffer();
    if (job === "csv") {
      self.postMessage({ number, result: new Blob(csvPieces(buffer), { type: "text/csv" }) });
      return;
    }
    const cloud = readCloud(buffer);
    const arrays = [cloud.position, cloud.tag, cloud.paint].filter(Boolean).map((array) => array.buffer);
    self.postMessage({ number, result: cloud }, arrays);
  } catch (error) {
    self.postMessage({ number, error: error.message });
  }
};
