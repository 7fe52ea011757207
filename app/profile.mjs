// Which functions of LiteRT.js's runtime a classifier calls: writes app/runtime.json, which the
// build uses to make a runtime without the others (docs/app.md, "What runs").
//
//     node --experimental-wasm-relaxed-simd profile.mjs MODEL.tflite [MODEL.tflite ...]
//
// The runtime chooses kernels by the processor; so every model runs as on x86 and as on others.
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import vm from "node:vm";
import { counting } from "./wasm.mjs";

const FOLDER = new URL("node_modules/@litertjs/core/wasm/", import.meta.url);
const NAMES = ["litert_wasm_internal", "litert_wasm_compat_internal"];

// XNNPACK tells x86 by the sign of infinity - infinity; the sum has the sign of other processors.
// In bytes: f32.sub, i32.reinterpret_f32, then a shift by 31 or a comparison with 0.
const SIGNS = ["93bc411f76", "93bc2201410048"];

function asElsewhere(bytes) {
  const changed = Buffer.from(bytes);
  for (const sign of SIGNS) {
    const at = changed.indexOf(sign, 0, "hex");
    if (at < 0 || changed.indexOf(sign, at + 1, "hex") >= 0) throw new Error(`${sign} is not there once`);
    changed[at] = 0x92; // f32.add
  }
  return changed;
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

const profile = {};
for (const name of NAMES) {
  const whole = readFileSync(new URL(`${name}.wasm`, FOLDER));
  const found = new Set();
  for (const bytes of [whole, asElsewhere(whole)]) {
    const module = await WebAssembly.compile(counting(bytes));
    for (const model of process.argv.slice(2)) {
      await called(name, module, new Uint8Array(readFileSync(model)), found);
      console.log(name, model, found.size);
    }
  }
  const sha256 = createHash("sha256").update(whole).digest("hex");
  profile[name] = { sha256, functions: Array.from(found).sort((a, b) => a - b) };
}
writeFileSync(new URL("runtime.json", import.meta.url), `${JSON.stringify(profile)}\n`);
