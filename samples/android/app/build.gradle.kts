// What an empty project of Android Studio gets in addition; Chaquopy 16 or newer in its settings.
plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
    id("com.chaquo.python")
}

android {
    namespace = "org.edgeq.sample"
    compileSdk = 35
    defaultConfig {
        applicationId = "org.edgeq.sample"
        minSdk = 24
        ndk { abiFilters += listOf("arm64-v8a") }
    }
}

chaquopy {
    defaultConfig {
        version = "3.13"
        pip {
            options("--extra-index-url", "https://pypi.flet.dev")
            install("numpy")
            install("onnxruntime")
            install("edgeq-runtime")
        }
        extractPackages("net.edgeq")  // engines open files, not members of the APK
    }
}
