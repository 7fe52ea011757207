// The service worker that keeps the app on the device.

// `files`: what the worker loaded, which depends on the browser; kept along with the page's own.
export async function keepOffline(files) {
  if (!("serviceWorker" in navigator)) return false; // plain http on another machine
  try {
    await navigator.serviceWorker.register(new URL("sw.js", document.baseURI));
    const { active } = await navigator.serviceWorker.ready;
    return await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }) => resolve(data.kept);
      active.postMessage({ keep: files }, [port2]);
    });
  } catch {
    return false; // a private window, or no room: the app works online all the same
  }
}
