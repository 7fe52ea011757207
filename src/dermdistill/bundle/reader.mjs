// A bundle read in JavaScript, for browsers and Node, without dependencies. docs/bundle.md has the
// format. Entries are stored as they are, so a file is a view into the bytes, never a copy.

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const END_BYTES = 22;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*(\/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$/;

function refuse(reason) {
  throw new Error(`the bundle is refused: ${reason}`);
}

// name -> the file's bytes, from the table at the archive's end.
function entriesOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.byteLength - END_BYTES;
  if (end < 0 || view.getUint32(end, true) !== END) refuse("it is no zip archive, or was cut off");
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  const files = new Map();
  for (let i = 0; i < count; i++) {
    if (at + 46 > end || view.getUint32(at, true) !== CENTRAL) refuse("its table is damaged");
    const [method, size, plain] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true),
      view.getUint32(at + 24, true)];
    const nameLength = view.getUint16(at + 28, true);
    const extra = view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const start = view.getUint32(at + 42, true) + 30 + nameLength;
    if (!NAME.test(name) || files.has(name)) refuse(`an entry is named ${name}`);
    if (method !== 0 || size !== plain || extra) refuse(`${name} is compressed`);
    if (start + size > end) refuse(`${name} reaches beyond the archive`);
    files.set(name, bytes.subarray(start, start + size));
    at += 46 + nameLength;
  }
  if (at !== end) refuse("its table is damaged");
  return files;
}

// SHA-256 in hexadecimal, by the platform.
async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A bundle's bytes -> {manifest, files: name -> bytes}; throws unless every file is whole.
export async function readBundle(bytes) {
  const files = entriesOf(bytes);
  if (!files.has("manifest.json")) refuse("manifest.json is missing");
  const manifest = JSON.parse(new TextDecoder().decode(files.get("manifest.json")));
  if (manifest.kind !== "dermdistill-bundle" || manifest.version !== 1) {
    refuse(`its version is ${manifest.version}; this reads 1`);
  }
  const listed = Object.entries(manifest.files);
  if (listed.length + 1 !== files.size) refuse("it has other files than its manifest says");
  for (const [name, { sha256: known }] of listed) {
    if (!files.has(name)) refuse(`${name} is missing`);
    if ((await sha256(files.get(name))) !== known) refuse(`${name} is damaged`);
  }
  return { manifest, files };
}
