// Decoding, preprocessing and the model, off the page's thread so that it never stutters.
import { openEngine } from "./engines.js";
import { toSquare } from "./pixels.js";
import { examine } from "./quality.js";

const FOLDER = new URL("./", self.location.href).href;
let ask = null;
let spec = null;
let opened = null;
let queue = Promise.resolve();

// Opens the first of the models that runs here; each file is compared with its digest.
async function open({ bundle, manifest, models }) {
  spec = manifest.preprocessing;
  const reasons = [];
  for (const name of models) {
    const model = manifest.models[name];
    const file = model.files[0];
    try {
      const bytes = fetchFile(new URL(file, bundle), manifest.files[file].sha256);
      bytes.catch(() => {}); // whoever waits for them is told
      ask = await openEngine(bytes, model, spec.px, FOLDER);
      await ask(new Uint8Array(spec.px * spec.px * 3)); // the first run is slow: not a person's
      return { name, used: loaded() };
    } catch (error) {
      reasons.push(`${name}: ${error.message ?? error}`);
    }
  }
  throw new Error(reasons.join("; "));
}

// What came, not what failed on the way to the model that answers.
const loaded = () => performance.getEntriesByType("resource").filter((entry) => entry.responseStatus !== 0).map((entry) => entry.name);

async function fetchFile(url, digest) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (self.crypto?.subtle) { // not there on plain http, except on this machine
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const words = Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (words !== digest) throw new Error(`${url} is damaged`);
  }
  return bytes;
}

async function timed(work) {
  const start = performance.now();
  return [await work(), performance.now() - start];
}

// A picture is decoded while the model may still be on its way; its wait for that is not counted.
async function answer({ blob, turn, box }) {
  const [{ pixels, side }, decoding] = await timed(() => toSquare(blob, turn, box, spec));
  await opened;
  // One after the other: the model has one set of buffers.
  const asked = queue.then(() => timed(() => ask(pixels)));
  queue = asked.catch(() => {});
  const [found, asking] = await asked;
  return { ...found, quality: examine(pixels, spec.px, side), ms: decoding + asking };
}

self.onmessage = async ({ data: { id, kind, value } }) => {
  try {
    if (kind === "open") opened = open(value);
    self.postMessage({ id, value: await (kind === "open" ? opened : answer(value)) });
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};
