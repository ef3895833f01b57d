"""Commands of portable models: quantize, export and push."""

import argparse

from cluster import UsageError
from cluster.console.cli import CommandGroup
from jobs.command_options import CHECKPOINT_HELP, add_force, parse_count


def add_portable_commands(commands: CommandGroup) -> None:
    """Add the commands."""
    quantize = commands.add_command("quantize", _quantize, "write a smaller copy of a checkpoint")
    quantize.add_argument("checkpoint", help=CHECKPOINT_HELP)
    quantize.add_argument("out", help="new folder, a path or URI")
    text = "of each number of a word vector, 2 to 8 (default: 6)"
    quantize.add_argument("--bits", type=int, choices=range(2, 9), default=6, metavar="N", help=text)
    text = "number of words that remain, the most frequent first; others count as unknown (default: all)"
    quantize.add_argument("--max-words", type=parse_count, metavar="N", help=text)
    export = commands.add_command("export", _export, "write a checkpoint as ONNX, or as files for a web page")
    export.add_argument("checkpoint", help=CHECKPOINT_HELP)
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--onnx", metavar="FILE", help="ONNX file to write, with its tokenizer.json; a path or URI")
    text = "folder to write, with a page that classifies in the browser; a path or URI"
    target.add_argument("--browser", metavar="FOLDER", help=text)
    export.add_argument("--no-tokenizer", dest="tokenizer", action="store_false", help="write no tokenizer.json (ONNX)")
    add_force(export)
    push = commands.add_command("push", _push, "upload a checkpoint to the Hugging Face Hub")
    push.add_argument("checkpoint", help=CHECKPOINT_HELP)
    push.add_argument("repository", metavar="OWNER/NAME", help="created if it does not exist")
    push.add_argument("--private", action="store_true", help="create a private repository")
    push.add_argument("--revision", help="branch to commit to, which must exist (default: main)")


def _quantize(options: argparse.Namespace) -> None:
    from jobs.portable.quantization import quantize_checkpoint

    quantize_checkpoint(options.checkpoint, options.out, options.bits, options.max_words)


def _export(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from jobs.portable.browser_export import export_browser
    from jobs.portable.onnx_export import export_onnx, tokenizer_path

    if options.browser:
        if not options.tokenizer:
            raise UsageError("--no-tokenizer is for --onnx: a page needs the tokenizer")
        export_browser(options.checkpoint, options.browser, replace=options.force)
        return
    if not options.force:
        check_not_replaced(options.onnx)
        if options.tokenizer:
            check_not_replaced(tokenizer_path(options.onnx))
    export_onnx(options.checkpoint, options.onnx, with_tokenizer=options.tokenizer)


def _push(options: argparse.Namespace) -> None:
    from jobs.portable.push import push_checkpoint

    push_checkpoint(options.checkpoint, options.repository, private=options.private, revision=options.revision)
