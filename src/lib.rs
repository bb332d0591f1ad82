//! Palisade runs the services of one Linux server, each in a sandbox of its own under a tiny PID 1.
//!
//! # The way of a service file
//! ```text
//! services.d/*.toml --config::load--> ServiceFile --spec::resolve(HostFacts)--> Unit
//!     --plan::build(Assigned)--> LaunchPlan --launch--> init (PID 1) --exec--> the service
//! ```
//! A [`supervisor`] owns the only poll loop and the only clock; it feeds events to [`machine::step`], which is pure,
//! and carries out the actions that come back.
//!
//! # Invariants
//! - The pure modules (`calendar`, `config::schema`, `spec`, `seccomp`, `plan`, `machine`, `metrics`, `names`, `net::addr`, `ingress`, `notify`, `control::proto`) never read a clock,
//!   a file, an id or the environment.
//! - `machine` never sees a pid; the init never sees the configuration, only the lowered plan.
//! - Only `sys` contains unsafe code (and the freestanding files of the init, which are a program of their own).
//! - Nothing from the host ever enters a running sandbox: no setns, no ptrace; everything is asked of its init.

pub mod calendar;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod control;
pub mod ingress;
pub mod init;
pub mod launch;
pub mod logs;
pub mod machine;
pub mod metrics;
pub mod names;
pub mod net;
pub mod notify;
pub mod plan;
pub mod report;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod supervisor;
pub mod sys;
