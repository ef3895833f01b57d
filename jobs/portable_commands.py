"""Commands of portable models: quantize, export and push."""

import argparse
import shlex

from cluster import UsageError
from cluster.console.cli import CommandGroup, parse_count
from cluster.console.output import add_dry_run, print_next, print_plan
from jobs.command_options import CHECKPOINT_HELP, add_force


def add_portable_commands(commands: CommandGroup) -> None:
    """Add the commands."""
    quantize = commands.add_command("quantize", _quantize, "write a smaller copy of a checkpoint")
    quantize.add_argument("checkpoint", help=CHECKPOINT_HELP)
    quantize.add_argument("out", help="new folder, a path or URI")
    text = "of each number of a word vector, 2 to 8 (default: 6)"
    quantize.add_argument("--bits", type=int, choices=range(2, 9), default=6, metavar="N", help=text)
    text = "number of words that remain, the most frequent first; others count as unknown (default: all)"
    quantize.add_argument("--max-words", type=parse_count, metavar="N", help=text)
    add_dry_run(quantize)
    export = commands.add_command("export", _export, "write a checkpoint as ONNX, or as files for a web page")
    export.add_argument("checkpoint", help=CHECKPOINT_HELP)
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--onnx", metavar="FILE", help="ONNX file to write, with its tokenizer.json; a path or URI")
    text = "folder to write, with a page that classifies in the browser; a path or URI"
    target.add_argument("--browser", metavar="FOLDER", help=text)
    export.add_argument("--no-tokenizer", dest="tokenizer", action="store_false", help="write no tokenizer.json (ONNX)")
    add_force(export)
    add_dry_run(export)
    push = commands.add_command("push", _push, "upload a checkpoint to the Hugging Face Hub")
    push.add_argument("checkpoint", help=CHECKPOINT_HELP)
    push.add_argument("repository", metavar="OWNER/NAME", help="created if it does not exist")
    push.add_argument("--private", action="store_true", help="create a private repository")
    push.add_argument("--revision", help="branch to commit to, which must exist (default: main)")
    add_dry_run(push)


def _quantize(options: argparse.Namespace) -> None:
    from jobs.portable.quantization import plan_quantization, quantize_checkpoint

    arguments = options.checkpoint, options.out, options.bits, options.max_words
    if options.dry_run:
        print_plan(plan_quantization(*arguments))
        return
    quantize_checkpoint(*arguments)
    print_next(f"finetune-cnn evaluate {shlex.quote(options.out)}")


def _export(options: argparse.Namespace) -> None:
    if options.browser:
        _export_browser(options)
    else:
        _export_onnx(options)


def _export_browser(options: argparse.Namespace) -> None:
    from cluster.storage import is_uri
    from jobs.portable.browser_export import export_browser, plan_browser_export

    if not options.tokenizer:
        raise UsageError("--no-tokenizer is for --onnx: a page needs the tokenizer")
    if options.dry_run:
        print_plan(plan_browser_export(options.checkpoint, options.browser, replace=options.force))
        return
    export_browser(options.checkpoint, options.browser, replace=options.force)
    if not is_uri(options.browser):
        print_next(f"python -m http.server --directory {shlex.quote(options.browser)}")


def _export_onnx(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from jobs.portable.onnx_export import export_onnx, plan_onnx_export, tokenizer_path

    if not options.force:
        check_not_replaced(options.onnx)
        if options.tokenizer:
            check_not_replaced(tokenizer_path(options.onnx))
    if options.dry_run:
        print_plan(plan_onnx_export(options.checkpoint, options.onnx, with_tokenizer=options.tokenizer))
        return
    export_onnx(options.checkpoint, options.onnx, with_tokenizer=options.tokenizer)


def _push(options: argparse.Namespace) -> None:
    from jobs.portable.push import plan_push, push_checkpoint

    arguments = options.checkpoint, options.repository
    if options.dry_run:
        print_plan(plan_push(*arguments, private=options.private, revision=options.revision))
        return
    uri = push_checkpoint(*arguments, private=options.private, revision=options.revision)
    print_next(f"finetune-cnn serve {shlex.quote(uri)}")
