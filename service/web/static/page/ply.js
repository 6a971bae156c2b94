// Binary PLY, as this service writes it: the header's vertex properties, and a function that reads each.

const READ = {
  char: [1, "getInt8"],
  uchar: [1, "getUint8"],
  short: [2, "getInt16"],
  ushort: [2, "getUint16"],
  int: [4, "getInt32"],
  uint: [4, "getUint32"],
  float: [4, "getFloat32"],
  double: [8, "getFloat64"],
};
const HEADER_BYTES = 1 << 20;

/**
 * Return {count, stride, classes, properties: Map of name to {type, read: row => number}} of a little-endian binary PLY.
 *
 * classes: [{id, name, color: [r, g, b]}] as this service's comments tell them; names have no spaces there.
 *
 * Throws Error where the bytes are none.
 */
export function parsePly(buffer) {
  const head = new TextDecoder("latin1").decode(new Uint8Array(buffer, 0, Math.min(HEADER_BYTES, buffer.byteLength)));
  const end = head.indexOf("end_header\n");
  if (!head.startsWith("ply\n") || end < 0 || !head.includes("\nformat binary_little_endian 1.0\n")) {
    throw new Error("The service's answer is not a binary PLY file.");
  }
  const start = end + "end_header\n".length;
  const columns = [];
  const classes = [];
  let count = 0;
  let stride = 0;
  for (const line of head.slice(0, end).split("\n")) {
    const words = line.split(" ");
    if (words[0] === "comment" && words[1] === "class" && words.length === 7) {
      const [id, ...color] = words.slice(2, 6).map(Number);
      classes.push({ id, name: words[6], color });
    }
    if (words[0] === "element") count = Number(words[2]);
    if (words[0] !== "property") continue;
    const [bytes] = READ[words[1]] ?? [];
    if (bytes === undefined) throw new Error(`The answer has a property of type ${words[1]}, which is not read.`);
    columns.push([words[2], words[1], stride]);
    stride += bytes;
  }
  if (start + count * stride > buffer.byteLength) throw new Error("The service's answer ends early.");
  const view = new DataView(buffer, start);
  const properties = new Map();
  for (const [name, type, offset] of columns) {
    properties.set(name, { type, read: reader(view, READ[type][1], stride, offset) });
  }
  return { count, stride, classes, properties };
}

// One closure a type, so that each stays a plain machine load.
function reader(view, method, stride, offset) {
  switch (method) {
    case "getFloat32":
      return (row) => view.getFloat32(row * stride + offset, true);
    case "getFloat64":
      return (row) => view.getFloat64(row * stride + offset, true);
    case "getUint8":
      return (row) => view.getUint8(row * stride + offset);
    case "getInt32":
      return (row) => view.getInt32(row * stride + offset, true);
    default:
      return (row) => view[method](row * stride + offset, true);
  }
}

const BLOCK = 20000;

/** Return a PLY's vertices as the pieces of a CSV file, in their order. */
export function csvPieces(buffer) {
  const { count, properties } = parsePly(buffer);
  const columns = [...properties.values()].map(({ type, read }) => (type === "float" ? (row) => short(read(row)) : read));
  const encoder = new TextEncoder();
  const pieces = [encoder.encode([...properties.keys()].map(quoted).join(",") + "\n")];
  for (let start = 0; start < count; start += BLOCK) {
    const lines = [];
    for (let row = start; row < Math.min(start + BLOCK, count); row++) lines.push(columns.map((read) => read(row)).join(","));
    pieces.push(encoder.encode(lines.join("\n") + "\n"));
  }
  return pieces;
}

function quoted(name) {
  return /[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name;
}

/** Return a float32 with no more digits than it has. */
function short(value) {
  const brief = Number(value.toPrecision(7));
  return Math.fround(brief) === value ? brief : Number(value.toPrecision(9));
}
