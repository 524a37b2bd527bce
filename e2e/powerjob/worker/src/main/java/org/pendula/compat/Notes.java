package org.pendula.compat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import tech.powerjob.worker.core.processor.TaskContext;

/** What was run where, written down by the one that ran it: a file for each instance, a line for each execution. */
final class Notes {
    private Notes() {
    }

    /** A worker may lose an end that comes with its begin, one of 4.0 often, and on a busy machine all the more. */
    static void pause() {
        try {
            Thread.sleep(200);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** Writes a line, and returns after a pause how many there are now. */
    static int begun(TaskContext context) throws IOException {
        Path file = Paths.get(System.getProperty("compat.notes"), String.valueOf(context.getInstanceId()));
        String line = System.getProperty("compat.name") + " " + context.getTaskName() + " " + context.getTaskId() + "\n";
        byte[] bytes = line.getBytes(StandardCharsets.UTF_8);
        Files.write(file, bytes, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        pause();
        return Files.readAllLines(file).size();
    }
}
