// Puts the parts of the page together.

import { BoxSet } from "./boxes.js";
import { curl, showCommands } from "./commands.js";
import { bytes, count, element, make, show } from "./dom.js";
import { offerDownloads } from "./downloads.js";
import { fetchFile, label, measure, query } from "./job.js";
import { askForKey, key, watchKey } from "./key.js";
import { watchKeys } from "./keyboard.js";
import { Legend } from "./legend.js";
import { Models, untilReady } from "./models.js";
import { View } from "./scene.js";
import { tagWords } from "./sizes.js";
import { hideProblem, idle, showProblem, showWarnings, working } from "./status.js";
import { Table } from "./table.js";
import { fetchSample, watchFiles } from "./upload.js";

const MODE_NAMES = { class: "class", object: "box", height: "height", intensity: "intensity", color: "own colour", confidence: "how sure" };
const viewer = element("viewer");
const canvas = element("canvas");
const models = new Models();
const table = new Table(select);
const legend = new Legend((colors, hidden) => view?.paintClasses(colors, hidden));
let view = null;
let file = null;
let result = null;
let running = null;

try {
  view = new View(canvas, { onFrame: frameDrawn });
} catch (error) {
  showProblem({ title: "No 3-D picture", detail: `This browser has no WebGL 2, so the page can label but not draw. ${error.message}` });
}

function options() {
  const [model, condition, units] = ["model", "condition", "units"].map((id) => element(id).value);
  return { model, condition, units, scores: element("scores").checked, tta: element("tta").checked };
}

/** Take a problem to where it belongs: a missing key to its form, all else to the panel. */
function report(error, onRetry) {
  if (error.name === "AbortError") return;
  if (error.status === 401) askForKey();
  showProblem(error, error.passes ? onRetry : null);
}

async function connect() {
  await untilReady();
  try {
    await models.load();
    hideProblem();
    if (!result) tellCommands({ name: "scan.ply" }, options(), "scan", true);
    if (file && !result) await run();
  } catch (error) {
    report(error, connect);
  }
}

async function take(chosen) {
  file = chosen;
  result = null;
  if (models.known) await run();
  else if (element("key-section").hidden) working("Waiting for the service");
}

/** Label the file, show it, measure its boxes, show them. */
async function run() {
  running?.abort();
  const mine = (running = new AbortController());
  const chosen = options();
  hideProblem();
  viewer.dataset.state = "working";
  try {
    const labelled = await label(file, chosen, mine.signal);
    result = { ...labelled, file, options: chosen, measurement: null };
    showCloud();
    if (result.cloud.has.instance) {
      result.measurement = await measure(file, chosen, mine.signal);
      showBoxes();
    }
    offer();
  } catch (error) {
    if (mine === running) report(error, run);
    if (result?.file === file && !result.measurement) offer();
  } finally {
    if (mine === running) {
      running = null;
      idle();
      viewer.dataset.state = result ? "shown" : "empty";
    }
  }
}

function showCloud() {
  const { cloud, options: chosen } = result;
  show(element("empty"), false);
  for (const id of ["toolbar", "hint", "scan", "again"]) show(element(id), true);
  for (const id of ["boxes", "boxes-switch", "downloads"]) show(element(id), false);
  table.select(-1);
  const modes = ["class", "height"];
  if (cloud.has.instance && cloud.objects) modes.splice(1, 0, "object");
  if (cloud.has.intensity) modes.push("intensity");
  if (cloud.paint) modes.push("color");
  if (cloud.has.confidence) modes.push("confidence");
  element("mode").replaceChildren(...modes.map((value) => make("option", { value, textContent: MODE_NAMES[value] })));
  element("mode").value = firstMode(cloud, modes);
  view?.setCloud(cloud);
  legend.set(cloud.classes.map((one) => ({ ...one, name: models.className(chosen.model, one.id, one.name) })), cloud.labels);
  colorBy();
  const total = /total;dur=([\d.]+)/.exec(result.timing ?? "")?.[1];
  element("scan-name").textContent = result.file.name;
  element("scan-facts").textContent = [
    `${count(cloud.points)} points`,
    bytes(result.file.size),
    total ? `labelled in ${(total / 1000).toFixed(2)} s` : "",
  ].filter(Boolean).join(", ");
  showWarnings(result.warnings);
  canvas.setAttribute("aria-label", `${result.file.name}: ${count(cloud.points)} points, coloured by ${MODE_NAMES[element("mode").value]}`);
}

/** Return what to colour by at first: what there is to tell apart, or else what shows the shape. */
function firstMode(cloud, modes) {
  if (modes.includes("object")) return "object";
  if (cloud.labels.filter(([id]) => id >= 0).length > 1) return "class";
  return modes.includes("color") ? "color" : "height";
}

function showBoxes() {
  const { measurement, warnings } = result;
  showWarnings([...warnings, ...measurement.warnings]);
  const up = measurement.support?.normal ?? measurement.up;
  if (up && view) view.orient(up);
  drawBoxes();
  show(element("boxes-switch"), measurement.boxes.some((box) => box.measured));
  if (!measurement.boxes.length) element("boxes-title").textContent = "No boxes found";
  show(element("size-unit").parentElement, measurement.boxes.length > 0);
  colorBy();
  canvas.setAttribute("aria-label", `${canvas.getAttribute("aria-label")}, ${measurement.boxes.length} boxes`);
}

/** Draw the boxes and their table, with sizes in the unit that is chosen. */
function drawBoxes() {
  const { measurement, cloud } = result;
  const unit = element("size-unit").value;
  table.set(measurement.boxes, unit);
  view?.setBoxes(
    new BoxSet(measurement.boxes, cloud.origin, measurement.metres_per_unit, element("tags"), {
      words: (box) => tagWords(box, unit),
      onSelect: select,
    }),
  );
}

function select(id) {
  table.select(id);
  view?.select(id);
}

function colorBy() {
  const mode = element("mode").value;
  view?.colorBy(mode);
  const number = (value) => String(+value.toPrecision(3));
  const ends = {
    height: () => view.heights.map(number),
    intensity: () => result.cloud.intensity.map(number),
    confidence: () => ["0 %", "100 %"],
  }[mode];
  legend.ramp(ends && view ? ends() : null);
}

function offer() {
  const { file: source, options: chosen, stem } = result;
  offerDownloads(result, {
    fetchFile: (output) => {
      const more = { output, scores: chosen.scores ? "true" : "" };
      return fetchFile("/v1/segment", source, query(source, chosen, more), `${stem}_labelled.${output}`);
    },
    fetchBoxes: (output) => {
      const more = { output, units: chosen.units };
      return fetchFile("/v1/measure", source, query(source, chosen, more), `${stem}_boxes.${output}`);
    },
    onProblem: (error) => report(error),
  });
  tellCommands(source, chosen, stem, result.measurement !== null);
}

function tellCommands(source, chosen, stem, boxes) {
  const { filename: _carriedByTheForm, ...fields } = query(source, chosen);
  const labels = { ...fields, output: "ply", scores: chosen.scores ? "true" : "" };
  const commands = [["Labels", curl("/v1/segment", source.name, labels, `${stem}_labelled.ply`, key())]];
  const sizes = { ...fields, units: chosen.units, output: "csv" };
  if (boxes) commands.push(["Boxes", curl("/v1/measure", source.name, sizes, `${stem}_boxes.csv`, key())]);
  showCommands(commands);
}

function frameDrawn({ resting, budget, count: all, fps }) {
  viewer.dataset.picture = resting ? "resting" : "moving";
  viewer.dataset.fps = fps.toFixed(1);
  viewer.dataset.budget = budget;
  element("figures").textContent = `${count(all)} points`;
}

watchFiles({
  onFile: take,
  onSample: async () => {
    try {
      await take(await fetchSample());
    } catch {
      report({ title: "No sample", detail: "The sample could not be fetched from the service." });
    }
  },
});
watchKey(connect);
if (view) watchKeys(canvas, view, () => select(-1));
element("cancel").addEventListener("click", () => {
  running?.abort();
  if (!running) file = null;
  idle();
});
element("options").addEventListener("change", () => !result && models.known && tellCommands({ name: "scan.ply" }, options(), "scan", true));
element("options").addEventListener("submit", (event) => {
  event.preventDefault();
  if (file) run();
});
element("mode").addEventListener("change", colorBy);
element("size-unit").addEventListener("change", drawBoxes);
element("point-size").addEventListener("input", (event) => view?.pointSize(Number(event.target.value)));
element("boxes-shown").addEventListener("change", (event) => view?.showBoxes(event.target.checked));
element("home").addEventListener("click", () => view?.home());
connect();
