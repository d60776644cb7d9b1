/** A document as it stands in etcd, with the place that is wrong marked. Only `shoal dashboard` can read it there. */

import { me } from "../me";
import type { Mode, Stored } from "../api/types";
import { stored } from "../api/stored";
import { useAsked } from "../api/asked";
import { Trouble } from "./basics";
import { lineOf } from "./locate";

export function Source(props: { kind: string; pattern: string; mode: Mode; path: string }) {
  const there = me.value?.may.write === true;
  const seen = useAsked<Stored>(there ? `${props.mode} ${props.kind}/${props.pattern}` : null, (signal) => stored(props.kind, props.pattern, props.mode, signal));
  if (!there) return null;
  if (seen.problem) return <Trouble problem={seen.problem} />;
  if (!seen.body) return null;
  const marked = lineOf(seen.body.text, props.path);
  return (
    <pre class="source" tabIndex={0}>
      {seen.body.text.split("\n").map((line, number) =>
        number === marked ? (
          <mark key={number}>
            {line} {"  ← "}
            {props.path}
            {"\n"}
          </mark>
        ) : (
          <span key={number}>
            {line}
            {"\n"}
          </span>
        ),
      )}
    </pre>
  );
}
