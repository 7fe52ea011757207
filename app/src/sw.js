// Service worker: answers from its own copy alone, so the app works without a network.
// {{version}} changes with any file of the app or the bundle; {{files}} is the list of them.
const CACHE = "dermdistill-{{version}}";
const SHELL = "{{files}}".split(" ");

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith("dermdistill-") && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

// The page tells which runtime and model this browser uses.
self.addEventListener("message", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(CACHE);
    let kept = true;
    for (const url of event.data.keep) {
      if (!url.startsWith(self.registration.scope) || (await cache.match(url))) continue;
      await cache.add(url).catch(() => { kept = false; });
    }
    event.ports[0].postMessage({ kept });
  })());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    // A newer page must not meet an older cache's files: pages come from the network first.
    if (request.mode === "navigate") {
      return fetch(request).catch(async () => (await cache.match("./")) ?? Response.error());
    }
    return (await cache.match(request)) ?? fetch(request);
  })());
});
