"""Runs one notebook through its kernel and writes it back with outputs.

Usage: run.py KERNEL NOTEBOOK OUTPUT FOLDER [--quiet] [--keep-going]

The kernel answers "ok" even when a cell panicked or left through `?`. What it does do then is forget the variables
that the cell defined. So every cell gets one variable of its own, and after the cell the kernel is asked for its
variables: without ours, the cell did not reach its end.

Progress goes to standard output; the outcome of each cell into the written notebook's metadata. Exits with 0 when
every cell succeeded, 1 when one failed (the rest is not run unless told to keep going), 130 when interrupted.
"""

import json
import os
import re
import signal
import sys
import time

from jupyter_client import KernelManager

GUARD = "denoscope_cell_ran"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What the library prints while something long goes on: "capture, pictures: 96/400 · 0:46 elapsed, 2:25 left".
PROGRESS = re.compile(r".*: \d+/\d+ · [\d:]+ elapsed, [\d:]+ left")
# Seconds between two looks whether the kernel, and whoever started this program, still live.
POLL = 2.0
# Seconds that the words of a cell that left early may take to arrive.
LATE = 5.0
PARENT = os.getppid()


def say(text):
    print(text, flush=True)


def guarded(code):
    """The cell with the guard variable before its first statement, or None when it has no statement to guard.

    The guard stands on the first statement's own line, so that line numbers in the compiler's errors stay true.
    """
    lines = code.split("\n")
    for i, line in enumerate(lines):
        text = line.strip()
        # Kernel commands, shell commands, comments and crate attributes stay where they are.
        if not text or text.startswith((":", "!", "//", "#![")):
            continue
        if text.startswith("/*"):
            lines.insert(i, f"let {GUARD}: () = ();")
        else:
            lines[i] = f"let {GUARD}: () = (); {line}"
        return "\n".join(lines)
    return None


def output_of(message):
    """The notebook's form of one message from the kernel, or None."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return {"output_type": "stream", "name": content["name"], "text": content["text"]}
    if kind in ("execute_result", "display_data"):
        output = {"output_type": kind, "data": content["data"], "metadata": content.get("metadata", {})}
        if kind == "execute_result":
            output["execution_count"] = content.get("execution_count")
        return output
    if kind == "error":
        return {"output_type": "error", **{k: content.get(k, "") for k in ("ename", "evalue", "traceback")}}
    return None


def add(outputs, output):
    """Appends an output; neighbouring pieces of the same stream become one."""
    if output["output_type"] == "stream" and outputs and outputs[-1]["output_type"] == "stream":
        if outputs[-1]["name"] == output["name"]:
            outputs[-1]["text"] += output["text"]
            return
    outputs.append(output)


def without_progress(outputs):
    """The outputs of a finished cell without lines of progress, which are for whoever waits."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream":
            lines = output["text"].splitlines(keepends=True)
            text = "".join(line for line in lines if not PROGRESS.match(line))
            if not text.strip() and text != output["text"]:
                continue
            output = {**output, "text": text}
        kept.append(output)
    return kept


def unguarded(traceback):
    """A compiler's report without the guard: it is nobody's business, and the marks below it move left by its width."""
    guard = f"let {GUARD}: () = (); "
    plain = [ANSI.sub("", line) for line in traceback]
    if not any(guard in line for line in plain):
        return traceback
    bar, width = " │ ", len(guard)
    shifted = [line.replace(guard, "").replace(bar + " " * width, bar) for line in plain]
    return [line.replace("  │ " + " " * width, "  │ ") for line in shifted]


class Died(Exception):
    pass


def execute(manager, client, code, on_output):
    """Runs code to its end; returns the status of the reply.

    The kernel reads what a cell prints in threads of their own, so a last line can arrive after the cell's end and
    under the next request's name: text counts whatever request it bears.
    """
    request = client.execute(code, allow_stdin=False, stop_on_error=False)
    idle = reply = None
    while not (idle and reply):
        for channel in ("iopub", "shell"):
            if (channel == "iopub" and idle) or (channel == "shell" and (reply or not idle)):
                continue
            try:
                message = getattr(client, f"get_{channel}_msg")(timeout=POLL)
            except Exception:  # nothing arrived; queue.Empty in all versions of jupyter_client
                if not manager.is_alive():
                    raise Died("the kernel process ended")
                if os.getppid() != PARENT:
                    raise KeyboardInterrupt
                continue
            if message["msg_type"] != "stream" and message["parent_header"].get("msg_id") != request:
                continue
            if channel == "shell":
                reply = message["content"]["status"]
            elif message["msg_type"] == "status":
                idle = message["content"]["execution_state"] == "idle"
            else:
                output = output_of(message)
                if output:
                    on_output(output)
    return reply


def finished(manager, client, on_late):
    """Whether the last guarded cell reached its end. What it printed and arrives only now goes to `on_late`."""
    text = []

    def on_output(output):
        if output["output_type"] == "stream":
            on_late(output)
        else:
            text.append(output.get("data", {}).get("text/plain", ""))

    execute(manager, client, ":vars", on_output)
    return any(line.startswith(GUARD + ":") for line in "".join(text).splitlines())


def wait_for_words(client, outputs, on_late):
    """Waits until a cell that left early has said why."""
    until = time.time() + LATE
    while time.time() < until and not any(o["output_type"] == "stream" and o["name"] == "stderr" for o in outputs):
        try:
            message = client.get_iopub_msg(timeout=0.2)
        except Exception:  # nothing arrived
            continue
        if message["msg_type"] == "stream":
            on_late(output_of(message))


def failure_of(outputs):
    """What a cell that did not reach its end said last: the panic, else the error that `?` printed."""
    said = "".join(o["text"] for o in outputs if o["output_type"] == "stream" and o["name"] == "stderr")
    lines = [line for line in said.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if " panicked at " in line and line.startswith("thread "):
            message = []
            for rest in lines[i + 1 :]:
                if rest.startswith(("stack backtrace:", "note:")):
                    break
                message.append(rest)
            return "Panic", "\n".join([line, *message[:20]])
    return "Error", lines[-1] if lines else "the cell left early without a message"


def run_cell(manager, client, cell, show):
    """Runs one code cell in place; returns None or (name, message) of its failure."""
    code = "".join(cell["source"])
    outputs = cell["outputs"] = []
    cell["execution_count"] = None
    if not code.strip():
        return None

    def on_output(output):
        add(outputs, output)
        if output["output_type"] == "stream" and output["name"] == "stderr":
            show(output["text"])

    marked = guarded(code)
    status = execute(manager, client, marked or code, on_output)
    errors = [o for o in outputs if o["output_type"] == "error"]
    for output in errors:
        output["traceback"] = unguarded(output["traceback"])
    if status != "ok" or errors:
        text = "\n".join(ANSI.sub("", e["evalue"]) for e in errors) or f"the kernel answered {status!r}"
        detail = ANSI.sub("", "\n".join(line for e in errors for line in e["traceback"]))
        return "Error", detail if text in detail else f"{text}\n{detail}".strip()
    if marked and not finished(manager, client, on_output):
        wait_for_words(client, outputs, on_output)
        name, message = failure_of(outputs)
        outputs.append({"output_type": "error", "ename": name, "evalue": message, "traceback": message.split("\n")})
        return name, message
    return None


def run(kernel, path, output, folder, quiet=False, keep_going=False):
    with open(path, encoding="utf-8") as file:
        notebook = json.load(file)
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    started = time.time()
    manager = KernelManager(kernel_name=kernel)
    manager.start_kernel(cwd=folder)
    client = manager.client()
    failures = 0
    interrupted = False

    def show(text):
        if not quiet:
            for line in text.splitlines():
                say(f"      {line}")

    try:
        client.start_channels()
        client.wait_for_ready(timeout=1800)  # a changed library is compiled first
        ready = time.time() - started
        notebook["metadata"]["denoscope"] = {"start": round(ready, 2)}
        if not quiet:
            say(f"  kernel ready after {ready:.1f} s")
        for number, cell in enumerate(cells, 1):
            title = next((l.strip() for l in "".join(cell["source"]).split("\n") if l.strip()), "")
            began = time.time()
            try:
                failed = run_cell(manager, client, cell, show)
            except Died as error:
                failed = "Died", str(error)
            seconds = time.time() - began
            cell["execution_count"] = number
            cell.setdefault("metadata", {})["denoscope"] = {"seconds": round(seconds, 2)}
            if not quiet:
                mark = "FAILED" if failed else f"{seconds:6.1f} s"
                say(f"  cell {number} of {len(cells)} {mark}  {title[:70]}")
            if not failed:
                cell["outputs"] = without_progress(cell["outputs"])
            else:
                failures += 1
                cell["metadata"]["denoscope"].update(failed=failed[0], message=failed[1])
                if failed[0] == "Died" or not keep_going:
                    break
    except KeyboardInterrupt:
        interrupted = True
        say("  interrupted: shutting the kernel down")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    notebook["metadata"].setdefault("denoscope", {})["total"] = round(time.time() - started, 2)
    notebook["metadata"]["kernelspec"] = {"name": kernel, "display_name": "denoscope (Rust)", "language": "rust"}
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    with open(output + ".new", "w", encoding="utf-8") as file:
        json.dump(notebook, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.replace(output + ".new", output)
    return 130 if interrupted else 1 if failures else 0


if __name__ == "__main__":
    # Also where SIGINT was ignored by whoever started this, as shells do for work in the background.
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_, signal.default_int_handler)
    flags = sys.argv[5:]
    sys.exit(run(*sys.argv[1:5], quiet="--quiet" in flags, keep_going="--keep-going" in flags))
