//! The subcommands of this module.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use super::{Place, cell, launch, reproduce, setup};
use crate::error::{Error, Result};

/// Set up the notebook environment and open JupyterLab on the notebooks.
#[derive(clap::Args, Debug)]
pub struct Lab {
    /// Set up only what is missing; open nothing.
    #[arg(long)]
    pub setup_only: bool,
    /// Start JupyterLab without opening a browser (it prints its address).
    #[arg(long)]
    pub no_browser: bool,
    /// Further arguments for JupyterLab, after `--` (as root, in a container: `-- --allow-root`).
    #[arg(last = true)]
    pub jupyter: Vec<OsString>,
}

impl Lab {
    /// Runs the command.
    ///
    /// # Errors
    /// When a step of the setup fails or JupyterLab ends with an error.
    pub fn run(self) -> Result<()> {
        let place = Place::find()?;
        setup::run(&place, true)?;
        if self.setup_only {
            eprintln!("ready: `cargo run -- lab` opens JupyterLab");
            return Ok(());
        }
        let mut jupyter = Command::new(place.python());
        jupyter
            .current_dir(place.notebooks())
            .args(["-m", "jupyterlab"])
            // A library changed under a running server is compiled at the next kernel start.
            .args(["--ZMQChannelsWebsocketConnection.kernel_info_timeout=1800"])
            .arg(format!("--ServerApp.root_dir={}", place.notebooks().display()))
            .env("JUPYTER_PATH", place.jupyter());
        if self.no_browser {
            jupyter.arg("--no-browser");
        }
        jupyter.args(&self.jupyter);
        let status = jupyter.status().map_err(Error::file(place.python()))?;
        if status.success() { Ok(()) } else { Err(Error::invalid(format!("JupyterLab ended with {status}"))) }
    }
}

/// Run notebooks headless through the real kernel; write them with outputs and one gallery page.
#[derive(clap::Args, Debug)]
pub struct Reproduce {
    /// Notebooks (`tour`), folders of notebooks, or files; all when none is named.
    pub names: Vec<String>,
    /// Where the executed notebooks and the gallery go [default: lab/gallery in cargo's target folder].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// After a failed cell run the notebook's other cells too.
    #[arg(long)]
    pub keep_going: bool,
    /// Set up only what is missing; run nothing.
    #[arg(long)]
    pub setup_only: bool,
}

impl Reproduce {
    /// Runs the command.
    ///
    /// # Errors
    /// When the setup fails, a name is unknown, or a cell failed.
    pub fn run(self) -> Result<()> {
        let place = Place::find()?;
        reproduce::choose(&place, &self.names)?; // a misspelt name fails before ten minutes of setup
        setup::run(&place, false)?;
        if self.setup_only {
            return Ok(());
        }
        let out = self.out.unwrap_or_else(|| place.lab.join("gallery"));
        let mode = reproduce::Mode { quiet: false, keep_going: self.keep_going };
        reproduce::run(&place, &self.names, &out, mode)
    }
}

/// Start the notebook kernel (Jupyter calls this).
#[derive(clap::Args, Debug)]
pub struct Kernel {
    /// Jupyter's connection file.
    pub connection: PathBuf,
}

impl Kernel {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`launch::run`].
    pub fn run(self) -> Result<()> {
        launch::run(&self.connection)
    }
}

/// Compile a cell (the notebook kernel calls this in cargo's place).
#[derive(clap::Args, Debug)]
pub struct Cell {
    /// Arguments for cargo.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

impl Cell {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`cell::cargo`].
    pub fn run(self) -> Result<()> {
        cell::cargo(&self.arguments)
    }
}
