// Which files a result comes in, and the commands that do the same.

import { curl } from "./commands.js";
import { fetchFile, query } from "./job.js";
import { key } from "./key.js";
import { toCsv } from "./reader.js";

const CLOUDS = [
  ["las", "LAS", "labelled cloud"],
  ["laz", "LAZ", "labelled cloud, compressed LAS"],
  ["pcd", "PCD", "labelled cloud"],
  ["npz", "NPZ", "labelled cloud, NumPy arrays"],
];
const DRAWINGS = [
  ["png", "Boxes, PNG", "picture of the cloud with its boxes"],
  ["ply", "Boxes, PLY", "points coloured by box, with the boxes' edges"],
];

function json(value) {
  return new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });
}

/** Return the files of a result, for offerDownloads; what is not at hand the service makes, from the same file. */
export function filesOf(result) {
  const { task, stem, options } = result;
  if (task === "classify") {
    const fetch = async () => ({ blob: json(result.found), name: `${stem}_class.json` });
    return [{ word: "json", text: "JSON", about: "class of the cloud, and how likely each class is", fetch }];
  }
  if (task === "embed") {
    const fetch = async () => ({ blob: result.features, name: `${stem}_features.npz` });
    return [{ word: "npz", text: "NPZ", about: "features of the points, a NumPy array", fetch }];
  }
  const labelled = (output) => {
    const more = { output, scores: options.scores ? "true" : "" };
    return fetchFile("/v1/segment", result.file, query(result.file, options, more), `${stem}_labelled.${output}`);
  };
  const files = [
    { word: "ply", text: "PLY", about: "labelled cloud", fetch: async () => ({ blob: result.labelled, name: `${stem}_labelled.ply` }) },
    ...CLOUDS.map(([word, text, about]) => ({ word, text, about, fetch: () => labelled(word) })),
    {
      word: "csv",
      text: "CSV",
      about: "labelled cloud, a line for each point",
      fetch: async () => ({ blob: await toCsv(result.labelled), name: `${stem}_labelled.csv` }),
    },
  ];
  return result.measurement?.boxes.length ? [...files, ...filesOfBoxes(result)] : files;
}

function filesOfBoxes({ file, stem, options, measurement, table }) {
  const drawn = (output) =>
    fetchFile("/v1/measure", file, query(file, options, { output, units: options.units }), `${stem}_boxes.${output}`);
  return [
    {
      word: "boxes.csv",
      text: "Boxes, CSV",
      about: "sizes of the boxes",
      // There is none where labels and boxes came in two answers.
      fetch: table ? async () => ({ blob: table, name: `${stem}_boxes.csv` }) : () => drawn("csv"),
    },
    {
      word: "boxes.json",
      text: "Boxes, JSON",
      about: "boxes with corners and sizes",
      fetch: async () => ({ blob: json(measurement), name: `${stem}_boxes.json` }),
    },
    ...DRAWINGS.map(([word, text, about]) => ({ word: `boxes.${word}`, text, about, fetch: () => drawn(word) })),
  ];
}

/** Return the commands that do what the page does with a file, [[what it does, the command]]; `boxes`: also measure. */
export function commandsOf(file, options, task, stem, boxes) {
  const { filename: _carriedByTheForm, ...fields } = query(file, options);
  const command = (route, more, out) => curl(`/v1/${route}`, file.name, { ...fields, ...more }, out, key());
  if (task === "classify") return [["Class", command("classify", {}, "")]];
  if (task === "embed") return [["Features", command("embed", {}, `${stem}_features.npz`)]];
  const labels = ["Labels", command("segment", { output: "ply", scores: options.scores ? "true" : "" }, `${stem}_labelled.ply`)];
  if (!boxes) return [labels];
  return [labels, ["Boxes", command("measure", { units: options.units, output: "csv" }, `${stem}_boxes.csv`)]];
}
