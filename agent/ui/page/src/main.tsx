import { render } from "preact";
import { live } from "./api/live";
import { App } from "./app";
import { meet, meetAgain } from "./me";
import "./styles/page.css";

document.addEventListener("visibilitychange", () => live.looking(document.visibilityState === "visible"));
void meet();
meetAgain(live.connection);
const host = document.getElementById("page");
if (host) {
  host.textContent = "";
  render(<App />, host);
}
