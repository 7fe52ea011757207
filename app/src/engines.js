// The two runtimes behind one door: openEngine(bytes, model, ...) -> async (pixels) -> its answers.
// `bytes` is a promise, so that a runtime and its model load at the same time.
import { getGlobalLiteRt, loadAndCompile, loadLiteRt, Tensor, unloadLiteRt } from "@litertjs/core";
import * as ort from "onnxruntime-web/wasm";

// NHWC bytes in the number type and layout that the model takes; one image.
function input(pixels, px, { type, layout }) {
  const ordered = layout === "NCHW" ? channelsFirst(pixels, px) : pixels;
  return {
    data: type === "float32" ? Float32Array.from(ordered) : ordered,
    shape: layout === "NCHW" ? [1, 3, px, px] : [1, px, px, 3],
  };
}

function channelsFirst(pixels, px) {
  const planes = new Uint8Array(pixels.length);
  const plane = px * px;
  for (let i = 0; i < plane; i++) {
    for (let colour = 0; colour < 3; colour++) planes[colour * plane + i] = pixels[3 * i + colour];
  }
  return planes;
}

// LiteRT.js looks for a graphics card and complains where there is none, and its runtime prints what
// it does. Here the CPU answers, and a console is for what goes wrong.
async function loadLiteRtQuietly(folder, ending) {
  Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
  self.Module = { print() {}, printErr() {}, locateFile: (name) => folder + name.replace(/\.wasm$/, ending) };
  const { warn } = console;
  console.warn = () => {};
  try {
    await loadLiteRt(folder);
  } finally {
    console.warn = warn;
  }
}

async function startLiteRt(bytes, model, px, folder, ending) {
  await loadLiteRtQuietly(folder, ending);
  const compiled = await loadAndCompile(await bytes, { accelerator: "wasm" });
  const found = compiled.getOutputDetails().map((output) => output.name);
  const listed = Object.values(model.outputs);
  // The manifest lists outputs in the runtime's order, for converters that rename them.
  const names = listed.every((name) => found.includes(name)) ? found : listed;
  return async (pixels) => {
    const { data, shape } = input(pixels, px, model.input);
    const tensor = new Tensor(data, shape);
    const results = await compiled.run([tensor]);
    tensor.delete();
    const values = {};
    results.forEach((result, i) => {
      values[names[i]] = Float32Array.from(result.toTypedArray());
      result.delete();
    });
    return values;
  };
}

// After a trap nothing of it may be called again, not even to clear up.
function dropLiteRt() {
  try { getGlobalLiteRt().objectsToDelete.clear(); } catch { return; } // it never stood
  unloadLiteRt();
}

// The runtime with the functions that classifiers were seen to call; one that calls another traps,
// and then the whole runtime answers.
async function openLiteRt(bytes, model, px, folder) {
  let run = null;
  const endings = [".lean.wasm", ".wasm"];
  return async (pixels) => {
    for (;;) {
      try {
        run ??= await startLiteRt(bytes, model, px, folder, endings[0]);
        return await run(pixels);
      } catch (error) {
        await bytes; // had they not come, that would be why
        if (endings.length === 1) throw error;
        endings.shift();
        run = null;
        dropLiteRt();
      }
    }
  };
}

async function openOrt(bytes, model, px, folder) {
  ort.env.wasm.numThreads = 1; // a student is too small to be worth starting threads for
  ort.env.wasm.wasmPaths = { wasm: `${folder}ort-wasm-simd-threaded.wasm` };
  const session = await ort.InferenceSession.create(await bytes, { executionProviders: ["wasm"] });
  return async (pixels) => {
    const { data, shape } = input(pixels, px, model.input);
    const results = await session.run({ [model.input.name]: new ort.Tensor(model.input.type, data, shape) });
    return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.data]));
  };
}

export async function openEngine(bytes, model, px, folder) {
  const open = model.files[0].endsWith(".tflite") ? openLiteRt : openOrt;
  const run = await open(bytes, model, px, folder);
  return async (pixels) => {
    const values = await run(pixels);
    const named = (output) => (model.outputs[output] ? values[model.outputs[output]] : null);
    return { probabilities: named("probabilities"), cam: named("cam"), oodScore: named("ood_score")?.[0] ?? null };
  };
}
