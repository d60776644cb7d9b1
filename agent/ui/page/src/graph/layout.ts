/** Where nodes stand: left to right, callers first. Pure, and slow for hundreds: `layout.worker.ts` runs it aside. */

import dagre from "@dagrejs/dagre";

export interface Size {
  id: string;
  width: number;
  height: number;
}

export interface Asked {
  turn: number;
  nodes: Size[];
  edges: { id: string; from: string; to: string }[];
}

export interface Point {
  x: number;
  y: number;
}

export interface Placed {
  turn: number;
  width: number;
  height: number;
  nodes: Record<string, Point>;
  edges: Record<string, Point[]>;
}

export function layout(asked: Asked): Placed {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 90, acyclicer: "greedy", marginx: 12, marginy: 12 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of asked.nodes) graph.setNode(node.id, { width: node.width, height: node.height });
  for (const edge of asked.edges) graph.setEdge(edge.from, edge.to, { width: 90, height: 16, labelpos: "c" }, edge.id);
  dagre.layout(graph);
  const nodes: Record<string, Point> = {};
  for (const { id } of asked.nodes) {
    const { x, y } = graph.node(id) as unknown as Point;
    nodes[id] = { x, y };
  }
  const edges: Record<string, Point[]> = {};
  for (const { id, from, to } of asked.edges) {
    edges[id] = (graph.edge({ v: from, w: to, name: id }) as unknown as { points?: Point[] }).points ?? [];
  }
  const size = graph.graph() as unknown as { width?: number; height?: number };
  return { turn: asked.turn, width: size.width ?? 0, height: size.height ?? 0, nodes, edges };
}
