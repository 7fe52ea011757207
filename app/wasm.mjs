// WebAssembly files as far as is needed to leave functions out of them (binary format, version 1).

const IMPORTS = 2, GLOBALS = 6, EXPORTS = 7, CODE = 10;
const STUB = Uint8Array.of(3, 0, 0x00, 0x0b); // a body of 3 bytes: no locals, `unreachable`, `end`

// Reads numbers and vectors of a file from a place on.
class Reader {
  constructor(bytes, at = 0) { Object.assign(this, { bytes, at }); }

  number() { // LEB128, unsigned
    for (let value = 0, shift = 1; ; shift *= 128) {
      const byte = this.bytes[this.at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  }

  take(length) { return this.bytes.subarray(this.at, (this.at += length)); }
}

function number(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return Uint8Array.of(...bytes, value);
}

function sections(bytes) {
  const reader = new Reader(bytes, 8);
  const found = [];
  while (reader.at < bytes.length) {
    const [id, length] = [bytes[reader.at++], reader.number()];
    found.push({ id, content: reader.take(length) });
  }
  return found;
}

const join = (bytes, parts) =>
  Buffer.concat([bytes.subarray(0, 8), ...parts.flatMap(({ id, content }) => [Uint8Array.of(id), number(content.length), content])]);

// Bodies of the code section, each with its length before it.
function bodies(content) {
  const reader = new Reader(content);
  return Array.from({ length: reader.number() }, () => {
    const start = reader.at;
    reader.take(reader.number());
    return content.subarray(start, reader.at);
  });
}

// The file with a stub for every function that `kept(place)` refuses; calling one traps.
export function without(bytes, kept) {
  return join(bytes, sections(bytes).map(({ id, content }) => {
    if (id !== CODE) return { id, content };
    const all = bodies(content);
    return { id, content: Buffer.concat([number(all.length), ...all.map((body, place) => (kept(place) ? body : STUB))]) };
  }));
}

// Imported globals come before a file's own.
function importedGlobals(content) {
  const reader = new Reader(content);
  let globals = 0;
  for (let left = reader.number(); left > 0; left--) {
    reader.take(reader.number()); // module
    reader.take(reader.number()); // name
    const kind = reader.take(1)[0];
    if (kind === 0) reader.number();
    else if (kind === 3) { reader.take(2); globals++; }
    else throw new Error(`an import of kind ${kind} is not expected here`);
  }
  return globals;
}

// The file with an exported global "f" + place for every function, 1 once the function was called.
export function counting(bytes) {
  const parts = sections(bytes);
  const find = (id) => parts.find((part) => part.id === id);
  const all = bodies(find(CODE).content);
  const own = new Reader(find(GLOBALS).content);
  const ownCount = own.number();
  const first = importedGlobals(find(IMPORTS).content) + ownCount;
  const exported = new Reader(find(EXPORTS).content);
  const exportCount = exported.number();
  const places = all.map((_, place) => place);
  const name = (place) => Buffer.from(`f${place}`);
  find(GLOBALS).content = Buffer.concat([number(ownCount + all.length), own.take(Infinity),
    ...places.map(() => Uint8Array.of(0x7f, 1, 0x41, 0, 0x0b))]); // mutable i32, 0
  find(EXPORTS).content = Buffer.concat([number(exportCount + all.length), exported.take(Infinity),
    ...places.flatMap((place) => [number(name(place).length), name(place), Uint8Array.of(3), number(first + place)])]);
  find(CODE).content = Buffer.concat([number(all.length), ...all.flatMap((body, place) => {
    const reader = new Reader(body);
    reader.number();
    const start = reader.at;
    for (let left = reader.number(); left > 0; left--) { reader.number(); reader.take(1); } // locals
    const mark = Buffer.concat([Uint8Array.of(0x41, 1, 0x24), number(first + place)]);
    const inside = Buffer.concat([body.subarray(start, reader.at), mark, body.subarray(reader.at)]);
    return [number(inside.length), inside];
  })]);
  return join(bytes, parts);
}
