"""`python -m e2e.lab run|up|down|shell|scenarios`: what `make lab` and `nephila lab` call."""

import argparse
import sys

from e2e.lab import commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="nephila lab", description="A cluster of network namespaces on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run a scenario from nothing to nothing and check it")
    run.add_argument("scenario", nargs="?", default="story")
    run.add_argument("--nodes", type=int, default=None, help="instead of the scenario's own number")
    run.add_argument("--size", type=int, default=None, help="pods, instead of the scenario's own number")
    run.add_argument("--api", choices=("embedded", "real"), default="embedded", help="which API server")
    run.add_argument("--json", action="store_true", help="print the summary as JSON")
    up = verbs.add_parser("up", help="start a lab that stays")
    up.add_argument("--nodes", type=int, default=3)
    up.add_argument("--empty", action="store_true", help="do not apply the example manifests")
    verbs.add_parser("down", help="take the standing lab down")
    shell = verbs.add_parser("shell", help="a shell inside a node, a pod, the gateway or the foreign host")
    shell.add_argument(
        "where", nargs="?", default="", help="node-1, namespace/pod, gateway, foreign; none: beside the API server"
    )
    shell.add_argument("command", nargs=argparse.REMAINDER, help="run this instead of a shell")
    both = verbs.add_parser("compare", help="a scenario on both API servers, ADD times side by side")
    both.add_argument("scenario", nargs="?", default="pace")
    verbs.add_parser("scenarios", help="list the scenarios")
    serve = verbs.add_parser("serve")
    serve.add_argument("--nodes", type=int, default=3)
    serve.add_argument("--empty", action="store_true")
    options = parser.parse_args()
    match options.verb:
        case "run":
            return commands.run(
                options.scenario, options.nodes, "json" if options.json else "text", options.api, options.size
            )
        case "compare":
            return commands.compare(options.scenario)
        case "up":
            return commands.up(options.nodes, "nothing" if options.empty else "examples")
        case "serve":
            return commands.serve(options.nodes, "nothing" if options.empty else "examples")
        case "down":
            return commands.down()
        case "shell":
            return commands.shell(options.where, options.command)
        case _:
            return commands.scenarios()


if __name__ == "__main__":
    sys.exit(main())
