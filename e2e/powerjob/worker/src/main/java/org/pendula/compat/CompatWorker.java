package org.pendula.compat;

import java.lang.reflect.Constructor;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import tech.powerjob.worker.PowerJobWorker;
import tech.powerjob.worker.common.PowerJobWorkerConfig;
import tech.powerjob.worker.common.constants.StoreStrategy;

/** A worker as people run it: app, servers, port, tag and protocol from the command line; a heartbeat as often as it is told. */
public final class CompatWorker {
    private CompatWorker() {
    }

    public static void main(String[] args) throws Exception {
        PowerJobWorkerConfig config = new PowerJobWorkerConfig();
        config.setAppName(args[0]);
        config.setServerAddress(new ArrayList<>(Arrays.asList(args[1].split(","))));
        config.setPort(Integer.parseInt(args[2]));
        config.setTag(args[3]);
        config.setStoreStrategy(StoreStrategy.MEMORY);
        setIfThere(config, "setProtocol", args[4]);
        setIfThere(config, "setHealthReportInterval", Integer.getInteger("compat.heartbeat", 10));
        PowerJobWorker worker = create(config);
        worker.init();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(worker)));
        System.out.println("worker is up");
        // Up to 4.2 nothing else keeps the process alive.
        Thread.currentThread().join();
    }

    /** Up to 4.2 there is no protocol but Akka, and no choice of how often there is a heartbeat. */
    private static void setIfThere(PowerJobWorkerConfig config, String setter, Object value) throws Exception {
        for (Method method : PowerJobWorkerConfig.class.getMethods()) {
            if (method.getName().equals(setter)) {
                Object[] constants = method.getParameterTypes()[0].getEnumConstants();
                method.invoke(config, constants == null ? value : named(constants, value.toString()));
            }
        }
    }

    private static Object named(Object[] constants, String name) {
        return Arrays.stream(constants).filter(constant -> constant.toString().equals(name)).findFirst().get();
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
}
