//! The supervisor of scripts as a program of its own, for workers that cannot call `main_if_supervisor` themselves.

fn main() {
    pendula_processors::supervisor::main_if_supervisor();
    eprintln!("pendula-script-supervisor is started by Pendula workers; it does nothing by itself");
    std::process::exit(2);
}
