// Which functions of LiteRT.js's runtime a classifier calls: adds them to app/runtime.json, which
// the build uses to make a runtime without the others (docs/app.md, "What runs"). A new version of
// the runtime begins an empty list.
//
//     node --experimental-wasm-relaxed-simd profile.mjs MODEL.tflite [MODEL.tflite ...]
//
// The runtime chooses kernels by the processor; so every model runs as on this one and on others.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import vm from "node:vm";
import { counting } from "./wasm.mjs";

const FOLDER = new URL("node_modules/@litertjs/core/wasm/", import.meta.url);

// What XNNPACK finds out about a processor, as bytes that occur once and others that make it find
// the opposite: whether infinity - infinity is negative (x86), and in the runtime with relaxed SIMD
// how products of bytes beyond 7 bits add up, what a swizzle beyond 15 gives, and which bits select.
const NOT_X86 = [["93bc411f76", "92bc411f76"], ["93bc2201410048", "92bc2201410048"]];
const SIGNED_DOTS = [["fd531b220520054210", "fd631b220520054210"]];
const MIXED_DOTS = [["fd531b21050340", "fd631b21050340"]];
const NOT_X86_LANES = [["fd8002fd51fd50fd53", "fd8002fd50fd50fd53"], ["fd512000fd502100", "fd502000fd502100"]];
// This processor and others: without relaxed SIMD, and with it x86 with VNNI and ARM.
const PROCESSORS = {
  litert_wasm_compat_internal: [[], NOT_X86],
  litert_wasm_internal: [[], NOT_X86, MIXED_DOTS, [...NOT_X86, ...NOT_X86_LANES, ...SIGNED_DOTS]],
};

function on(processor, bytes) {
  let text = Buffer.from(bytes).toString("latin1");
  for (const [here, there] of processor.map((pair) => pair.map((hex) => Buffer.from(hex, "hex").toString("latin1")))) {
    const parts = text.split(here);
    if (parts.length !== 2) throw new Error(`${Buffer.from(here, "latin1").toString("hex")} is there ${parts.length - 1} times`);
    text = parts.join(there);
  }
  return Buffer.from(text, "latin1");
}

// LiteRT.js believes to be in a browser's worker.
Object.assign(globalThis, { self: globalThis, WorkerGlobalScope: true, location: new URL("file:///") });
globalThis.importScripts = (name) => vm.runInThisContext(readFileSync(new URL(name, FOLDER), "utf8"));
Object.defineProperty(globalThis, "navigator", { value: {} });
Object.defineProperty(process, "type", { value: "renderer" });
console.warn = () => {};
const { loadLiteRt, loadAndCompile, unloadLiteRt, Tensor } = await import("@litertjs/core");

async function called(name, bytes, model, found) {
  let instance;
  self.Module = {
    print() {}, printErr() {},
    instantiateWasm: async (imports, done) => done((instance = await WebAssembly.instantiate(bytes, imports))),
  };
  await loadLiteRt(`${name}.js`);
  const compiled = await loadAndCompile(model, { accelerator: "wasm" });
  const [{ shape }] = compiled.getInputDetails();
  const size = shape.reduce((product, length) => product * length, 1);
  const run = async (value) => {
    const input = new Tensor(Float32Array.from({ length: size }, value), Array.from(shape));
    for (const output of await compiled.run([input])) { output.toTypedArray(); output.delete(); }
    input.delete();
  };
  await run(() => 0);
  await run((_, place) => (place * 7919) % 256);
  for (const [key, global] of Object.entries(instance.exports)) {
    if (/^f\d+$/.test(key) && global.value) found.add(Number(key.slice(1)));
  }
  compiled.delete();
  unloadLiteRt();
}

const PROFILE = new URL("runtime.json", import.meta.url);
const profile = JSON.parse(readFileSync(PROFILE));
for (const [name, processors] of Object.entries(PROCESSORS)) {
  const whole = readFileSync(new URL(`${name}.wasm`, FOLDER));
  const sha256 = createHash("sha256").update(whole).digest("hex");
  const found = new Set(profile[name]?.sha256 === sha256 ? profile[name].functions : []);
  for (const processor of processors) {
    const module = await WebAssembly.compile(counting(on(processor, whole)));
    for (const model of process.argv.slice(2)) {
      await called(name, module, new Uint8Array(readFileSync(model)), found);
      console.log(name, model, found.size);
    }
  }
  profile[name] = { sha256, functions: Array.from(found).sort((a, b) => a - b) };
}
writeFileSync(PROFILE, `${JSON.stringify(profile)}\n`);
