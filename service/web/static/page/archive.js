// ZIP files as this service writes them: their members are not compressed, and lie in the archive as they are.

const END = 0x06054b50;
const END_BYTES = 22;
const MEMBER = 0x02014b50;

/** Return a Map of name to Blob. Throws Error where the bytes are no such file. */
export function openArchive(buffer) {
  const view = new DataView(buffer);
  const end = buffer.byteLength - END_BYTES;
  if (end < 0 || view.getUint32(end, true) !== END) throw new Error("The service's answer is not a whole ZIP file.");
  const members = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== MEMBER || view.getUint16(at + 10, true) !== 0) {
      throw new Error("The service's answer is a ZIP file that this page does not read.");
    }
    const size = view.getUint32(at + 24, true);
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const text = new TextDecoder().decode(new Uint8Array(buffer, at + 46, name));
    members.set(text, new Blob([new Uint8Array(buffer, start, size)]));
    at += 46 + name + extra + comment;
  }
  return members;
}
