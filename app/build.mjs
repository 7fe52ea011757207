// Builds the front end into the Python package: `make app` calls this. What is written here is
// what a browser gets; dermdistill.app.site adds a bundle and fills the {{placeholders}}.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";
import { without } from "./wasm.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "../src/dermdistill/app/static");
const common = { bundle: true, minify: true, target: "es2022", legalComments: "eof", logLevel: "warning" };

const digest = (content) => createHash("sha256").update(content).digest("hex");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

await build({ ...common, entryPoints: [join(here, "src/main.js")], outfile: join(out, "assets/app.js"), format: "esm" });
await build({
  ...common,
  entryPoints: [join(here, "src/worker.js")],
  outfile: join(out, "assets/worker.js"),
  format: "iife", // LiteRT.js loads its runtime by importScripts, which module workers refuse
  define: { "import.meta.url": "self.location.href" },
  external: ["node:*", "fs", "path", "url", "worker_threads", "module"],
});
await build({ ...common, entryPoints: [join(here, "src/style.css")], outfile: join(out, "assets/style.css") });
await build({ ...common, entryPoints: [join(here, "src/sw.js")], outfile: join(out, "sw.js"), format: "iife" });

// The single-threaded runtimes alone; "compat" is for browsers without relaxed SIMD. Beside each
// lies a fifth of it: the functions that classifiers call (profile.mjs).
const litert = join(here, "node_modules/@litertjs/core/wasm");
const profile = JSON.parse(readFileSync(join(here, "runtime.json")));
for (const [name, { sha256, functions }] of Object.entries(profile)) {
  for (const ending of ["js", "wasm"]) cpSync(join(litert, `${name}.${ending}`), join(out, `assets/${name}.${ending}`));
  const whole = readFileSync(join(litert, `${name}.wasm`));
  if (digest(whole) !== sha256) throw new Error(`runtime.json is of another ${name}: run profile.mjs`);
  const kept = new Set(functions);
  writeFileSync(join(out, `assets/${name}.lean.wasm`), without(whole, (place) => kept.has(place)));
}
const ort = join(here, "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm");
cpSync(ort, join(out, "assets/ort-wasm-simd-threaded.wasm"));
cpSync(join(here, "public"), out, { recursive: true });

// What a browser downloads first, packed once and well: a third smaller than gzip makes it. It
// takes half a minute, so what did not change is taken from the cache.
const cache = join(here, "node_modules/.cache");
mkdirSync(cache, { recursive: true });
for (const name of readdirSync(join(out, "assets"))) {
  const content = readFileSync(join(out, "assets", name));
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: content.length > 9e6 ? 9 : 11,
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
    [constants.BROTLI_PARAM_SIZE_HINT]: content.length,
  };
  const known = join(cache, digest(content));
  if (!existsSync(known)) writeFileSync(known, brotliCompressSync(content, { params }));
  cpSync(known, join(out, "assets", `${name}.br`));
}
