// Talks with the service: JSON, files with progress, and its errors in its own words.

import { key } from "./key.js";

/** What the service answered instead of what was asked for: an RFC 9457 problem document, or no answer at all. */
export class Problem extends Error {
  constructor({ status = 0, title, detail, request_id = "", retryAfter = 0 }) {
    super(detail);
    Object.assign(this, { status, title, detail, requestId: request_id, retryAfter });
  }

  /** Whether the same request may well succeed later. */
  get passes() {
    return [0, 429, 503, 504].includes(this.status);
  }
}

const SILENT = { title: "No answer", detail: "The service does not answer. Is it still running?" };

function problem(status, body, retryAfter) {
  let said = {};
  try {
    said = JSON.parse(body);
  } catch {
    // A proxy's page, perhaps.
  }
  const title = said.title ?? `Status ${status}`;
  return new Problem({ title, detail: "The answer is not one of this service.", ...said, status, retryAfter });
}

/** Return a name for a request: 32 hex digits. (randomUUID is there on encrypted pages only.) */
export function newRequestId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the JSON at a path; throws Problem. With `any`, of every status. */
export async function ask(path, { any = false } = {}) {
  let answer, text;
  try {
    answer = await fetch(path, { headers: key() ? { "X-API-Key": key() } : {}, cache: "no-store" });
    text = await answer.text();
  } catch {
    throw new Problem(SILENT);
  }
  if (!answer.ok && !any) throw problem(answer.status, text, Number(answer.headers.get("Retry-After")));
  return JSON.parse(text);
}

/**
 * POST a file and return {bytes: ArrayBuffer, header: name => value}.
 *
 * Throws Problem, or an AbortError when `signal` ends it. `onSent` and `onReceived` are told (bytes, total or 0).
 */
export function post(path, file, { query = {}, signal, requestId, onSent = () => {}, onReceived = () => {} } = {}) {
  const options = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const request = new XMLHttpRequest();
  request.open("POST", `${path}?${new URLSearchParams(options)}`);
  request.responseType = "arraybuffer";
  // What the browser takes the file for by its name says less than its bytes do.
  request.setRequestHeader("Content-Type", "application/octet-stream");
  if (key()) request.setRequestHeader("X-API-Key", key());
  if (requestId) request.setRequestHeader("X-Request-ID", requestId);
  request.upload.onprogress = (event) => onSent(event.loaded, event.lengthComputable ? event.total : 0);
  request.onprogress = (event) => onReceived(event.loaded, event.lengthComputable ? event.total : 0);
  return new Promise((resolve, reject) => {
    const stop = () => request.abort();
    signal?.addEventListener("abort", stop);
    request.onloadend = () => signal?.removeEventListener("abort", stop);
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onerror = () => reject(new Problem(SILENT));
    request.onload = () => {
      if (request.status === 200) {
        resolve({ bytes: request.response, header: (name) => request.getResponseHeader(name) });
      } else {
        const text = new TextDecoder().decode(request.response);
        reject(problem(request.status, text, Number(request.getResponseHeader("Retry-After"))));
      }
    };
    if (signal?.aborted) return reject(new DOMException("stopped", "AbortError"));
    request.send(file);
  });
}

/** Return the file name of an answer's Content-Disposition. */
export function answerName(disposition, otherwise) {
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(disposition ?? "");
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="?([^";]+)"?/i.exec(disposition ?? "")?.[1] ?? otherwise;
}
