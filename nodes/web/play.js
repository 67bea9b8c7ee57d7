// A video that this pack has made plays by itself: the page shows it, looped, but waits for a click.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = "VideoLCM";
const PATIENCE = 100; // looks, a tenth of a second apart: the page takes a moment to draw a result

// Whether the graph, or a blueprint in it, has a node of ours; other packs' videos are left alone.
function isOurs(graph) {
  return graph.nodes.some((node) => node.type?.startsWith(OURS) || (node.subgraph && isOurs(node.subgraph)));
}

function play(filename, looks = PATIENCE) {
  const wanted = `filename=${encodeURIComponent(filename)}&`;
  const videos = [...document.querySelectorAll("video")].filter((video) => video.src.includes(wanted));
  if (videos.length === 0 && looks > 0) {
    setTimeout(() => play(filename, looks - 1), 100);
  }
  for (const video of videos) {
    video.muted = true; // there is no sound; browsers start only silent videos without a click
    video.play().catch(() => {}); // a result that is replaced meanwhile
  }
}

app.registerExtension({
  name: "VideoLCM.play",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      if (detail?.output?.animated && isOurs(app.graph)) {
        (detail.output.images ?? []).forEach((file) => play(file.filename));
      }
    });
  },
});
