"""The reference of the commands: usage, options and examples, as `--help` has them."""

from collections.abc import Iterator

import click

from generate.markdown import code, fence, heading, page, paragraphs, prose, table
from keras_imnet64.cli.frame import cli

PROGRAM = "python cli.py"


def commands_page() -> str:
    """Returns the page of all commands."""
    context = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    every = list(walk(context))
    first = every[0]
    shared = [p for p in first.command.get_params(first) if is_shared(p)]
    return page(
        "Commands",
        "`keras-imnet64` is the same as `python cli.py`. Every command also has these options:",
        options_table(shared, context),
        "Commands that print a result take `--json`: the result is then one JSON object on one "
        "line of standard output, and everything else goes to standard error. "
        "[Exit statuses](exit-codes.md) tell programs what happened.",
        table(["command", "what it does"], map(summary, every)),
        *map(section, every),
    )


def walk(context: click.Context) -> Iterator[click.Context]:
    """Yields the contexts of all commands below a group, in the order of `--help`."""
    group = context.command
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            child = click.Context(command, info_name=name, parent=context)
            yield child
            yield from walk(child)


def is_shared(parameter: click.Parameter) -> bool:
    """Returns whether every command has an option: those that act at once, such as --help."""
    return not parameter.expose_value


def words(context: click.Context) -> str:
    """Returns the words of a command, such as "data prepare"."""
    return context.command_path.removeprefix(f"{PROGRAM} ")


def anchor(context: click.Context) -> str:
    return words(context).replace(" ", "-")


def summary(context: click.Context) -> list[str]:
    """Returns the cells of a command in the list of commands."""
    first = help_and_example(context)[0].split("\n\n")[0]
    return [f"[{code(words(context))}](#{anchor(context)})", prose(first)]


def section(context: click.Context) -> str:
    """Returns the usage, text, example and options of a command."""
    command = context.command
    text, example = help_and_example(context)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    own = [p for p in command.get_params(context) if not is_shared(p)]
    parts = [
        heading(2, code(words(context)), anchor(context)),
        paragraphs(text),
        fence(usage, "text"),
        options_table(own, context),
        f"Example:\n\n{fence(example, 'sh')}",
    ]
    return "\n\n".join(filter(None, parts))


def help_and_example(context: click.Context) -> tuple[str, str]:
    """Returns the text of a command, and the command line of its example."""
    text, _, example = (context.command.help or "").replace("\b", "").partition("Example: ")
    if not text.strip() or not example.strip():
        raise ValueError(f"the help of {context.command_path} lacks its text or its example")
    return text.strip(), " ".join(example.split())


def options_table(parameters: list[click.Parameter], context: click.Context) -> str:
    options = [p for p in parameters if isinstance(p, click.Option) and not p.hidden]
    return table(["option", "what it does"], (option_row(option, context) for option in options))


def option_row(option: click.Option, context: click.Context) -> list[str]:
    """Returns the cells of an option: how it is written, and its help."""
    extra = option.get_help_extra(context)
    written = " / ".join(filter(None, [", ".join(option.opts), ", ".join(option.secondary_opts)]))
    if not option.is_flag and not option.count:
        written = f"{written} {option.make_metavar(context)}"
    notes = [prose(option.help or "")]
    if "required" in extra:
        notes.append("Required.")
    if "range" in extra:
        notes.append(f"Range: {prose(extra['range'])}.")
    if "default" in extra:
        notes.append(f"Default: {code(extra['default'])}.")
    return [code(written), " ".join(notes)]
