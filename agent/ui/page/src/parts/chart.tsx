/** Figures over time, by uPlot; what it shows is also said in words, for who does not see it. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Points } from "../api/types";
import { clock } from "../format";

export interface Line {
  name: string;
  points: Points;
  /** Its colour, by the name of a custom property. */
  colour: string;
  dash?: number[];
}

const HEIGHT = 150;

export function Chart(props: { title: string; until: number; stepS: number; lines: readonly Line[]; show: (value: number) => string }) {
  const { title, until, stepS, lines, show } = props;
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const count = Math.max(0, ...lines.map((line) => line.points.length));
  const times = Array.from({ length: count }, (_, at) => until - (count - 1 - at) * stepS);
  const data = [times, ...lines.map((line) => line.points)] as uPlot.AlignedData;
  const names = lines.map((line) => line.name).join("\n");

  useEffect(() => {
    const place = host.current;
    if (!place) return undefined;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const made = new uPlot(
      {
        width: place.clientWidth || 300,
        height: HEIGHT,
        cursor: { y: false },
        legend: { show: true, live: true },
        // Where nobody points, it tells the latest.
        hooks: { setCursor: [(made) => void (made.cursor.idx ?? made.setLegend({ idx: latest(made) }, false))] },
        scales: { x: { time: true }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
        axes: [{ ...axis, values: (_, splits) => splits.map((at) => clock(at).slice(0, 5)) }, { ...axis, size: 64, values: (_, splits) => splits.map(show) }],
        series: [
          { label: "until", value: (_: uPlot, at: number | null) => (at === null ? "–" : clock(at)) },
          ...lines.map((line) => ({
            label: line.name,
            stroke: colour(line.colour),
            width: 2,
            ...(line.dash ? { dash: line.dash } : {}),
            spanGaps: false,
            points: { show: false },
            value: (_: uPlot, value: number | null) => (value === null || value === undefined ? "–" : show(value)),
          })),
        ],
      },
      data,
      place,
    );
    plot.current = made;
    const watcher = new ResizeObserver(() => made.setSize({ width: place.clientWidth || 300, height: HEIGHT }));
    watcher.observe(place);
    return () => {
      watcher.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names]);
  useEffect(() => {
    plot.current?.setData(data);
    if (plot.current && (plot.current.cursor.idx ?? null) === null) plot.current.setLegend({ idx: latest(plot.current) }, false);
  }, [until, count, ...lines.map((line) => line.points)]);

  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div ref={host} role="img" aria-label={`${title}: ${inWords(lines, show)}`} />
    </figure>
  );
}

const latest = (made: uPlot): number => made.data[0].length - 1;

/** The last value of each line, and its highest. */
export function inWords(lines: readonly Line[], show: (value: number) => string): string {
  return lines
    .map((line) => {
      const seen = line.points.filter((each): each is number => each !== null);
      const last = seen[seen.length - 1];
      return last === undefined ? `${line.name} not known` : `${line.name} ${show(last)}, at most ${show(Math.max(...seen))}`;
    })
    .join("; ");
}
