/** The frame: where somebody is, whether what he sees is live, who he is. */

import { useEffect, useRef } from "preact/hooks";
import { live } from "./api/live";
import type { Alerts, Mesh } from "./api/types";
import { useLive } from "./api/use";
import { leave, me, meTrouble } from "./me";
import { Mark, Trouble } from "./parts/basics";
import { link, place } from "./router";
import { AgentsView } from "./views/agents";
import { ALERTS, AlertsView } from "./views/alerts";
import { MeshView } from "./views/mesh";
import { PoliciesView } from "./views/policies";
import { ServiceView } from "./views/service/view";
import { WhyView } from "./views/why/view";

const VIEWS = [
  ["mesh", "Mesh"],
  ["policies", "Policies"],
  ["why", "Why"],
  ["agents", "Agents"],
  ["alerts", "Alerts"],
] as const;

export function App() {
  const at = place.value.parts[0] || "mesh";
  const main = useRef<HTMLElement>(null);
  const where = place.value.parts.join("/");
  const first = useRef(true);
  // Who walks by keyboard or ear is brought to the new view.
  useEffect(() => {
    document.title = `${place.value.parts[1] ?? VIEWS.find(([id]) => id === at)?.[1] ?? "Shoal"} · Shoal`;
    if (!first.current) main.current?.focus();
    first.current = false;
  }, [where]);
  if (meTrouble.value && !me.value) {
    return (
      <main>
        <h1>Shoal</h1>
        <Trouble problem={meTrouble.value} />
        <p role="status">It is asked again by itself, every few seconds.</p>
      </main>
    );
  }
  if (me.value?.login && !me.value.who) {
    return (
      <main>
        <h1>Shoal</h1>
        <p>This agent shows the mesh {me.value.mesh} to people who have logged in.</p>
        <p>
          <a class="button" href={me.value.login}>
            Log in
          </a>
        </p>
        <p class="small">Now: {me.value.write}</p>
        {me.value.logout && (
          <p>
            This browser holds a login that does not count. <Leave where={me.value.logout} />
          </p>
        )}
        {meTrouble.value && <Trouble problem={meTrouble.value} />}
      </main>
    );
  }
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        To the content
      </a>
      <header>
        <a class="brand" href={link(["mesh"])}>
          Shoal
        </a>
        <nav aria-label="Views">
          {VIEWS.map(([id, words]) => (
            <a key={id} href={link([id])} aria-current={at === id ? "page" : undefined}>
              {words}
              {id === "alerts" && <Count />}
            </a>
          ))}
        </nav>
        <State />
        <Person />
      </header>
      <main ref={main} id="main" tabIndex={-1}>
        <View at={at} />
      </main>
    </>
  );
}

function View({ at }: { at: string }) {
  switch (at) {
    case "mesh":
      return <MeshView />;
    case "service":
      return <ServiceView key={place.value.parts[1]} />;
    case "policies":
      return <PoliciesView key={place.value.parts.join("/")} />;
    case "why":
      return <WhyView />;
    case "agents":
      return <AgentsView key={place.value.parts[1]} />;
    case "alerts":
      return <AlertsView />;
    default:
      return (
        <section>
          <h1>There is no such view</h1>
          <p>
            <a href={link(["mesh"])}>To the mesh</a>
          </p>
        </section>
      );
  }
}

function Count() {
  const counts = useLive<Alerts>(ALERTS, 30).body?.counts;
  const many = counts ? counts.error + counts.warning : 0;
  if (!counts || many === 0) return null;
  return <span class={`count ${counts.error ? "bad" : "warn"}`}>{many}</span>;
}

/** Whether what is shown is so now. */
function State() {
  const mesh = useLive<Mesh>("/mesh", 2).body;
  const connection = live.connection.value;
  const words = connection === "live" ? "live" : connection === "lost" ? "connection lost: what you see is old" : connection === "resting" ? "resting" : "connecting";
  return (
    <p class="state" role="status">
      {mesh ? `${mesh.name} by ${mesh.host} · ` : ""}
      <Mark health={connection === "live" ? "good" : connection === "lost" ? "bad" : "warn"}>{words}</Mark>
      {mesh && !mesh.etcd_connected ? " " : ""}
      {mesh && !mesh.etcd_connected ? <Mark health="bad">etcd is away</Mark> : null}
    </p>
  );
}

function Person() {
  const who = me.value;
  if (!who) return null;
  return (
    <p class="person">
      {who.who || "nobody who is known"}
      {who.role ? ` (${who.role})` : ""}
      {who.logout && <Leave where={who.logout} />}
    </p>
  );
}

function Leave({ where }: { where: string }) {
  return (
    <button type="button" class="plain" onClick={() => void leave(where)}>
      log out
    </button>
  );
}
