//! What the tests and the demonstration stand on: real parts, stores laid out by hand, caches made by real Nix, a server.
//! It must never take part in what is proven: the programs under test are started as they are built, and only watched.

pub mod closure;
pub mod cluster;
pub mod csi;
pub mod demo_table;
pub mod device_files;
pub mod documents;
pub mod glibc;
pub mod images;
pub mod layout;
pub mod made_up;
pub mod nginx;
pub mod node;
pub mod our_writer;
pub mod parts;
pub mod programs;
pub mod readme;
pub mod real_nix;
pub mod server;
pub mod shapes;
pub mod skip;
pub mod stage;
