// Another thread of a model in a browser: it computes until it is terminated.
import { initSync, lendThread } from "./threads/engine.js";

self.onmessage = ({ data: { module, memory } }) => {
  initSync({ module, memory });
  lendThread();
};
