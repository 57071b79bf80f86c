//! Validated meaning: what the objects say once every string in them has been parsed.
//! Never holds an unchecked string where a type exists; never touches a file, a clock or the network.

pub mod cache;
pub mod code;
pub mod cuda;
pub mod driver;
pub mod environment;
pub mod node;
pub mod store_path;
