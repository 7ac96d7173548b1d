//! Names without behaviour, used by every other module.
//!
//! **Invariant:** nothing here does I/O or reads a clock by itself.

mod clock;
mod endpoint;
mod failure;
mod lsn;
mod name;
mod run_id;
mod secret;
mod shell;
mod shown;
mod side;
mod target;
mod template;

pub use clock::{Clock, SystemClock, Timestamp};
pub use endpoint::{AuthMethods, Endpoint, EndpointError, TlsMode};
pub use failure::{Failure, PortError};
pub use lsn::Lsn;
pub use name::{RelationName, quote_ident, quote_literal, shown_ident, shown_literal};
pub use run_id::RunId;
pub use secret::Secret;
pub use shell::{misread_path, shell_word};
pub use shown::{is_hidden, shown, shown_lines};
pub use side::Side;
pub use target::Target;
pub use template::{Reference, Template};
