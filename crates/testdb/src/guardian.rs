//! What ends a server and deletes its directory, also when the process that started it was killed.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::install::own;

/// A shell that waits for our end of a pipe to close, which the kernel does however we end. It cannot be told by a signal
/// to the parent's death: that one comes when the thread ends that started the child, and tests are threads.
const SCRIPT: &str = r#"
directory=$1
pid_file=$1/data/$2
echo ready
read -r _
pid=$(head -n 1 "$pid_file" 2>/dev/null)
segment=$(sed -n 7p "$pid_file" 2>/dev/null | awk '{print $2}')
runs() { grep -qs "$directory" "/proc/$pid/cmdline"; }
if [ -n "$pid" ] && runs; then
    kill -QUIT "$pid"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        runs || break
        sleep 0.1
    done
    runs && kill -KILL "$pid"
fi
# One that was killed leaves it behind.
[ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
rm -rf "$directory"
"#;

pub(crate) struct Guardian {
    directory: TempDir,
    shell: Child,
}

impl Guardian {
    /// `pid_file`, in the directory of the data, begins with the line of the server's process. The directory is `user`'s.
    pub fn new(user: Option<(u32, u32)>, pid_file: &str) -> Guardian {
        let directory = tempfile::Builder::new().prefix("pendula-testdb-").tempdir().expect("a temporary directory");
        own(directory.path(), user);
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guardian"]).arg(directory.path()).arg(pid_file).current_dir("/");
        // Of its own group: what interrupts us must not interrupt it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("there is a shell");
        let mut ready = [0; 6];
        let read = shell.stdout.take().expect("it is a pipe").read_exact(&mut ready);
        read.expect("the guardian lives");
        Guardian { directory, shell }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
