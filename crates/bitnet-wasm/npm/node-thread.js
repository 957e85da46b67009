// Another thread of a model in Node: it computes until it is terminated.
import { parentPort } from "node:worker_threads";
import { initSync, lendThread } from "./threads/engine.js";

parentPort.once("message", ({ module, memory }) => {
  initSync({ module, memory });
  lendThread();
});
