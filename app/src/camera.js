// A photograph from the device's camera.
import { $ } from "./dom.js";

// Resolves to a PNG blob, or null if the person closed the window; rejects without a camera.
export async function takePhoto() {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } },
  });
  const dialog = $("#camera");
  const video = $("video", dialog);
  const take = $('[value="take"]', dialog);
  try {
    video.srcObject = stream;
    dialog.returnValue = "";
    take.disabled = true; // until there is something to take
    const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    dialog.showModal();
    await Promise.race([video.play(), closed]);
    take.disabled = false;
    await closed;
    if (dialog.returnValue !== "take") return null;
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    return await canvas.convertToBlob(); // PNG: nothing is lost
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    if (dialog.open) dialog.close();
  }
}
