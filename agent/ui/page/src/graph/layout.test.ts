import { expect, it } from "vitest";
import { layout } from "./layout";
import { curve } from "./picture";

it("places every node and edge, circles and loops among them", () => {
  const nodes = ["a", "b", "c"].map((id) => ({ id, width: 120, height: 46 }));
  const edges = [
    { id: "a b", from: "a", to: "b" },
    { id: "b c", from: "b", to: "c" },
    { id: "c a", from: "c", to: "a" },
    { id: "b b", from: "b", to: "b" },
  ];
  const placed = layout({ turn: 3, nodes, edges });
  expect(placed.turn).toBe(3);
  expect(Object.keys(placed.nodes)).toEqual(["a", "b", "c"]);
  for (const { id } of edges) expect(placed.edges[id]?.length).toBeGreaterThan(1);
  expect(placed.width).toBeGreaterThan(0);
});

it("draws a way through its points", () => {
  expect(curve([])).toBe("");
  expect(curve([{ x: 0, y: 0 }, { x: 9, y: 0 }])).toBe("M0 0 L9 0");
  expect(curve([{ x: 0, y: 0 }, { x: 5, y: 5 }, { x: 9, y: 0 }])).toBe("M0 0 Q5 5 9 0");
});
