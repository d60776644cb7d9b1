/** Asks the worker where things stand, when the picture is made of other nodes or edges: figures move nothing. */

import { signal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Asked, Placed } from "./layout";
import type { Graph, Node } from "./model";

export const NODE_HEIGHT = 46;

export function widthOf(node: Node): number {
  // Marks come and go with figures, and move nothing: there is room for two. A way is a document's, and has its own.
  if (node.kind === "outside") return 270;
  return Math.max(190, Math.min(390, Math.max(44 + node.name.length * 7.2, node.way ? 180 + node.way.length * 5.9 : 0)));
}

export function usePlaces(graph: Graph): ReadonlySignal<Placed | null> {
  const placed = useMemo(() => signal<Placed | null>(null), []);
  const worker = useMemo(() => new Worker(new URL("./layout.worker.ts", import.meta.url), { type: "module" }), []);
  const state = useMemo(() => ({ turn: 0 }), []);
  useEffect(() => {
    worker.onmessage = (event: MessageEvent<Placed>) => {
      if (event.data.turn === state.turn) placed.value = event.data;
    };
    return () => worker.terminate();
  }, []);
  const shape = [...graph.nodes.map((node) => node.id), "", ...graph.edges.map((edge) => edge.id)].join("\n");
  useEffect(() => {
    state.turn += 1;
    const asked: Asked = {
      turn: state.turn,
      nodes: graph.nodes.map((node) => ({ id: node.id, width: widthOf(node), height: NODE_HEIGHT })),
      edges: graph.edges.map(({ id, from, to }) => ({ id, from, to })),
    };
    worker.postMessage(asked);
  }, [shape]);
  return placed;
}
