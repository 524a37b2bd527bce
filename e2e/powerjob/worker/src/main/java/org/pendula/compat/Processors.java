package org.pendula.compat;

import java.util.ArrayList;
import java.util.List;
import tech.powerjob.worker.core.processor.ProcessResult;
import tech.powerjob.worker.core.processor.TaskContext;
import tech.powerjob.worker.core.processor.TaskResult;
import tech.powerjob.worker.core.processor.sdk.BasicProcessor;
import tech.powerjob.worker.core.processor.sdk.BroadcastProcessor;
import tech.powerjob.worker.core.processor.sdk.MapProcessor;
import tech.powerjob.worker.core.processor.sdk.MapReduceProcessor;

/** What the compatibility tests run. Each result says what was seen. */
public final class Processors {
    private Processors() {
    }

    /** Logs a line and gives its parameters back. */
    public static class Echo implements BasicProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            Notes.begun(context);
            context.getOmsLogger().info("echo of {}", context.getJobParams());
            return new ProcessResult(true, context.getJobParams() + "|" + context.getInstanceParams());
        }
    }

    /** Fails until it is run for as many times as its parameters say. */
    public static class Flaky implements BasicProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            int times = Notes.begun(context);
            boolean enough = times >= Integer.parseInt(context.getJobParams());
            return new ProcessResult(enough, "run " + times);
        }
    }

    /** Sleeps for as many milliseconds as its parameters say. */
    public static class Sleep implements BasicProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            Notes.begun(context);
            Thread.sleep(Long.parseLong(context.getJobParams()));
            return new ProcessResult(true, "slept");
        }
    }

    /** Once on each worker; takes as many milliseconds as its parameters say. */
    public static class Everywhere implements BroadcastProcessor {
        @Override
        public ProcessResult preProcess(TaskContext context) throws Exception {
            Notes.pause();
            return new ProcessResult(true, "pre");
        }

        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            Notes.begun(context);
            Thread.sleep(Long.parseLong(context.getJobParams()));
            return new ProcessResult(true, "here");
        }

        @Override
        public ProcessResult postProcess(TaskContext context, List<TaskResult> results) throws Exception {
            Notes.pause();
            return new ProcessResult(true, "results=" + results.size());
        }
    }

    /** As many sub-tasks as its parameters say. */
    public static class Spread implements MapProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            return spread(this, isRootTask(), context);
        }
    }

    /** The same, and counts them. */
    public static class SpreadAndCount implements MapReduceProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            return spread(this, isRootTask(), context);
        }

        @Override
        public ProcessResult reduce(TaskContext context, List<TaskResult> results) {
            Notes.pause();
            long good = results.stream().filter(TaskResult::isSuccess).count();
            return new ProcessResult(true, "good=" + good);
        }
    }

    /**
     * In calls of 200, as the library recommends, unless it is told otherwise; parameters are a number, how long each
     * sub-task takes in ms, and how many go into a call.
     */
    private static ProcessResult spread(MapProcessor processor, boolean isRoot, TaskContext context) throws Exception {
        String[] params = context.getJobParams().split(" ");
        if (!isRoot) {
            Thread.sleep(params.length > 1 ? Long.parseLong(params[1]) : 0);
            return new ProcessResult(true, "");
        }
        Notes.begun(context);
        int count = Integer.parseInt(params[0]);
        int most = params.length > 2 ? Integer.parseInt(params[2]) : 200;
        List<String> batch = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            batch.add("sub-task " + number);
            if (batch.size() == most || number + 1 == count) {
                processor.map(batch, "SUB");
                batch = new ArrayList<>();
            }
        }
        return new ProcessResult(true, "mapped");
    }
}
