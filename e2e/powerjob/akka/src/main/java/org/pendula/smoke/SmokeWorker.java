package org.pendula.smoke;

import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import tech.powerjob.worker.PowerJobWorker;
import tech.powerjob.worker.common.PowerJobWorkerConfig;
import tech.powerjob.worker.common.constants.StoreStrategy;
import tech.powerjob.worker.core.processor.ProcessResult;
import tech.powerjob.worker.core.processor.TaskContext;
import tech.powerjob.worker.core.processor.sdk.BasicProcessor;

/** A worker over Akka, as people run it: app, servers, port and perhaps a tag from the command line. */
public final class SmokeWorker {
    private SmokeWorker() {
    }

    public static void main(String[] args) throws Exception {
        PowerJobWorkerConfig config = new PowerJobWorkerConfig();
        config.setAppName(args[0]);
        config.setServerAddress(new ArrayList<>(Arrays.asList(args[1].split(","))));
        config.setPort(Integer.parseInt(args[2]));
        config.setStoreStrategy(StoreStrategy.MEMORY);
        if (args.length > 3) {
            config.setTag(args[3]);
        }
        useAkka(config);
        PowerJobWorker worker = create(config);
        worker.init();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(worker)));
        System.out.println("worker is up");
        Thread.currentThread().join();
    }

    /** Up to 4.2 there is nothing else; from 4.3 on it is said. */
    private static void useAkka(PowerJobWorkerConfig config) throws Exception {
        for (Method method : PowerJobWorkerConfig.class.getMethods()) {
            if (method.getName().equals("setProtocol")) {
                for (Object protocol : method.getParameterTypes()[0].getEnumConstants()) {
                    if (protocol.toString().equals("AKKA")) {
                        method.invoke(config, protocol);
                    }
                }
            }
        }
    }

    /** Up to 4.2 it is configured after it was made. */
    private static PowerJobWorker create(PowerJobWorkerConfig config) throws Exception {
        for (Constructor<?> constructor : PowerJobWorker.class.getConstructors()) {
            if (constructor.getParameterCount() == 1) {
                return (PowerJobWorker) constructor.newInstance(config);
            }
        }
        PowerJobWorker worker = PowerJobWorker.class.getConstructor().newInstance();
        PowerJobWorker.class.getMethod("setConfig", PowerJobWorkerConfig.class).invoke(worker, config);
        return worker;
    }

    private static void stop(PowerJobWorker worker) {
        try {
            worker.destroy();
        } catch (Exception exception) {
            exception.printStackTrace();
        }
    }

    /** Logs a line and gives its parameters back, after as many milliseconds as its instance's parameters say. */
    public static class Echo implements BasicProcessor {
        @Override
        public ProcessResult process(TaskContext context) throws Exception {
            // A report of more than 128 KiB would not fit into a frame of the worker's own Akka.
            String params = context.getJobParams();
            String begin = params == null || params.length() < 100 ? params : params.substring(0, 100);
            context.getOmsLogger().info("echo of {}", begin);
            String wait = context.getInstanceParams();
            if (wait != null && !wait.isEmpty()) {
                Thread.sleep(Long.parseLong(wait));
            }
            return new ProcessResult(true, "echo: " + context.getJobParams());
        }
    }
}
