// Puts the parts of the page together.

import { BoxSet } from "./boxes.js";
import { showCommands } from "./commands.js";
import { bytes, count, element, make, show } from "./dom.js";
import { offerDownloads } from "./downloads.js";
import { classify, embed, measure, segment } from "./job.js";
import { askForKey, watchKey } from "./key.js";
import { watchKeys } from "./keyboard.js";
import { Legend } from "./legend.js";
import { Models, untilReady } from "./models.js";
import { commandsOf, filesOf } from "./offers.js";
import { View, canDraw } from "./scene.js";
import { tagWords } from "./sizes.js";
import { hideProblem, idle, showProblem, showWarnings, working } from "./status.js";
import { Table } from "./table.js";
import { tellClass, tellFeatures, untell } from "./told.js";
import { fetchSample, watchFiles } from "./upload.js";

const MODE_NAMES = { class: "class", object: "box", height: "height", intensity: "intensity", color: "own colour", confidence: "how sure" };
const viewer = element("viewer");
const canvas = element("canvas");
const models = new Models();
const table = new Table(select);
const legend = new Legend((colors, hidden) => view?.paintClasses(colors, hidden));
const view = canDraw() ? new View(canvas, { onFrame: frameDrawn }) : null;
/** The file that came last, and what else came with it. */
let wanted = null;
let aside = "";
/** What is shown: a file, its options and what the service said of it. */
let result = null;
let running = null;

if (!view) viewer.dataset.blind = "";

function options() {
  const [model, condition, units] = ["model", "condition", "units"].map((id) => element(id).value);
  const labels = models.task(model) === "segment";
  return { model, condition, units, scores: labels && element("scores").checked, tta: labels && element("tta").checked };
}

/** Take a problem to where it belongs: a missing key to its form, all else to the panel. */
function report(error, onRetry, name = "") {
  if (error.name === "AbortError") return;
  if (error.status === 401) askForKey();
  showProblem(error, error.passes ? onRetry : null, name);
}

async function connect() {
  await untilReady();
  try {
    await models.load();
    hideProblem();
    if (!result) tellExample();
    if (wanted && !result) await run();
  } catch (error) {
    report(error, connect);
  }
}

async function take(chosen, note = "") {
  wanted = chosen;
  aside = note;
  if (models.known) await run();
  else if (element("key-section").hidden) working("Waiting for the service");
}

const JOBS = { segment: label, classify, embed };

/** Label a file and, where the model tells objects apart, measure its boxes. */
async function label(file, chosen, signal) {
  const found = await segment(file, chosen, models.tellsObjects(chosen.model), signal);
  if (found.measurement || !found.cloud.has.instance) return found;
  // The model was not loaded when the page asked for its card, so that nobody knew.
  const measurement = await measure(file, chosen, signal);
  // Without the new card the next file takes the same two requests: no reason to lose what was found.
  await models.load().catch(() => {});
  return { ...found, measurement, table: null };
}

/** Have the file that came last looked at, and show what the service says of it. */
async function run() {
  running?.abort();
  const mine = (running = new AbortController());
  const [file, chosen] = [wanted, options()];
  const task = models.task(chosen.model);
  hideProblem();
  viewer.dataset.state = "working";
  viewer.scrollIntoView({ block: "nearest" }); // on a telephone the options are far below
  try {
    const found = await JOBS[task](file, chosen, mine.signal);
    if (mine !== running) return;
    result = { ...found, task, file, options: chosen, warnings: [aside, ...found.warnings].filter(Boolean) };
    showResult();
  } catch (error) {
    if (mine === running) report(error, run, file.name);
  } finally {
    if (mine === running) {
      running = null;
      idle();
      viewer.dataset.state = !result ? "empty" : result.task === "segment" ? "shown" : "told";
      offerAgain();
    }
  }
}

function showResult() {
  const { task, file, stem, options: chosen, measurement } = result;
  show(element("empty"), false);
  show(element("scan"), true);
  for (const id of ["toolbar", "hint"]) show(element(id), task === "segment" && view !== null);
  for (const id of ["boxes", "boxes-switch", "legend"]) show(element(id), false);
  table.select(-1);
  untell();
  element("scan-name").textContent = file.name;
  element("scan-facts").textContent = facts().join(", ");
  showWarnings([...result.warnings, ...(measurement?.warnings ?? [])]);
  if (task === "segment") showCloud();
  else view?.clear();
  if (task === "classify") tellClass(result.found);
  if (task === "embed") tellFeatures(result);
  if (measurement) showBoxes();
  offerDownloads(filesOf(result), (error) => report(error, null, file.name));
  showCommands(commandsOf(file, chosen, task, stem, measurement !== null));
  element("said").textContent = `${file.name}: ${[...facts(), outcome()].join(", ")}`;
}

function facts() {
  const { cloud, found, points, file, timing } = result;
  const total = /total;dur=([\d.]+)/.exec(timing ?? "")?.[1];
  const seconds = total ? `answered in ${(total / 1000).toFixed(2)} s` : "";
  return [`${count((cloud ?? found ?? result).points)} points`, bytes(file.size), seconds].filter(Boolean);
}

function outcome() {
  const { task, found, measurement, cloud } = result;
  if (task === "classify") return `it is ${found.name}`;
  if (task === "embed") return "its features can be downloaded";
  return measurement ? `${measurement.boxes.length} boxes` : `${cloud.labels.filter(([id]) => id >= 0).length} classes in it`;
}

function showCloud() {
  const { cloud, file, options: chosen } = result;
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
  canvas.setAttribute("aria-label", `${file.name}: ${count(cloud.points)} points, coloured by ${MODE_NAMES[element("mode").value]}`);
}

/** Return what to colour by at first: what there is to tell apart, or else what shows the shape. */
function firstMode(cloud, modes) {
  if (modes.includes("object")) return "object";
  if (cloud.labels.filter(([id]) => id >= 0).length > 1) return "class";
  return modes.includes("color") ? "color" : "height";
}

function showBoxes() {
  const { measurement } = result;
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

/** Show the commands for a file that nobody has sent yet. */
function tellExample() {
  const chosen = options();
  const task = models.task(chosen.model);
  showCommands(commandsOf({ name: "scan.ply" }, chosen, task, "scan", models.tellsObjects(chosen.model)));
}

/** Offer the file that came last once more, with the options as they are now. */
function offerAgain() {
  const button = element("again");
  show(button, wanted !== null);
  if (!wanted) return;
  const same = result?.file === wanted;
  const words = { segment: "Label it again", classify: "Classify it again", embed: "Compute them again" };
  button.textContent = same ? words[models.task(element("model").value)] : `Try ${wanted.name} again`;
  const changed = !same || JSON.stringify(options()) !== JSON.stringify(result.options);
  button.className = changed ? "main" : "plain";
}

function frameDrawn({ resting, budget, count: all, fps }) {
  viewer.dataset.picture = resting ? "resting" : "moving";
  viewer.dataset.fps = fps.toFixed(1);
  viewer.dataset.budget = budget;
  element("figures").textContent = `${count(all)} points`;
}

watchFiles({
  onFile: take,
  onProblem: report,
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
  if (!running) wanted = null;
  idle();
});
element("options").addEventListener("change", () => {
  if (!models.known) return;
  if (!result) tellExample();
  offerAgain();
});
element("options").addEventListener("submit", (event) => {
  event.preventDefault();
  if (wanted) run();
});
element("mode").addEventListener("change", colorBy);
element("size-unit").addEventListener("change", drawBoxes);
element("point-size").addEventListener("input", (event) => view?.pointSize(Number(event.target.value)));
element("boxes-shown").addEventListener("change", (event) => view?.showBoxes(event.target.checked));
element("home").addEventListener("click", () => view?.home());
connect();
