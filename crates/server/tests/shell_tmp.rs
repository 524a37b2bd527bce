#[path = "it/world.rs"] mod world;
#[path = "it/faulty_store.rs"] mod faulty_store;
#[path = "it/shell_sessions.rs"] mod shell_sessions;
#[path = "it/shell_partitions.rs"] mod shell_partitions;
#[path = "it/shell_port.rs"] mod shell_port;
