//! The command line: one subcommand per stage, each a plain struct of the library with a `run` method.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Look inside text-to-image diffusion models with sparse autoencoders.
#[derive(Parser)]
#[command(name = "denoscope", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Declares the subcommands: each line names one and the struct that holds its arguments and runs it.
macro_rules! commands {
    ($($(#[$meta:meta])* $name:ident($arguments:ty)),* $(,)?) => {
        #[derive(Subcommand)]
        enum Command { $($(#[$meta])* $name($arguments)),* }

        impl Command {
            fn run(self) -> denoscope::Result<()> {
                match self { $(Command::$name(arguments) => arguments.run()),* }
            }
        }
    };
}

commands! {
    Generate(denoscope::diffusion::pipeline::Generate),
    Forward(denoscope::diffusion::forward::Forward),
    Capture(denoscope::activations::command::Capture),
    Train(denoscope::sae::command::Train),
    Evaluate(denoscope::measure::command::Evaluate),
    Label(denoscope::concepts::command::Label),
    Explore(denoscope::concepts::command::Explore),
    Edit(denoscope::intervene::command::EditPicture),
    /// Train or judge the embedded models.
    Embedded(denoscope::embedded::Embedded),
    Lab(denoscope::lab::command::Lab),
    Reproduce(denoscope::lab::command::Reproduce),
    #[command(hide = true)] Kernel(denoscope::lab::command::Kernel),
    #[command(hide = true)] Cell(denoscope::lab::command::Cell),
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
